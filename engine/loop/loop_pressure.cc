#include <algorithm>
#include <map>
#include <string>

#include "engine/loop/loop_engine.h"

namespace plimsoll {
namespace {

constexpr std::uint32_t tree_floor_divisor = 8;  // of the pool, what an orange level leaves cached

}  // namespace

PlannerLimits LoopEngine::planner_limits(PressureLevel level) const {
  const std::uint32_t divisor = level >= PressureLevel::orange ? 2 : 1;
  const auto cap = [&](std::uint32_t limit) { return std::max(1U, limit / divisor); };
  PlannerLimits limits{.tokens = cap(config_.limits.tokens),
                       .sequences = cap(config_.limits.sequences),
                       .logit_rows = config_.limits.logit_rows,
                       .chunk_tokens = cap(config_.chunk_tokens),
                       .admits = level < PressureLevel::red};
  for (std::size_t c = 0; c < capacity_classes; ++c) {
    limits.headroom[c] = static_cast<std::uint32_t>(config_.headroom[c] * pool_.capacity());
  }
  return limits;
}

void LoopEngine::apply_pressure(const PressureOrder& order) {
  const bool changed = order.level != applied_;
  applied_ = order.level;
  if (changed) planner_.set_limits(planner_limits(order.level));
  restore_.set_allowed(order.level < PressureLevel::red, order.level < PressureLevel::orange);
  PrefixTree::Dropped dropped;
  switch (order.level) {
    case PressureLevel::green:
      tree_.set_limit(pool_.capacity());
      block_cap_ = pool_.capacity();
      return;
    case PressureLevel::yellow:
      if (changed) tree_.set_limit(tree_.size());
      return;
    case PressureLevel::orange:
      tree_.set_limit(pool_.capacity() / tree_floor_divisor, &dropped);
      break;
    case PressureLevel::red:
      tree_.set_limit(0);
      tree_.clear(&dropped);
      break;
  }
  for (const auto& [tenant, blocks] : dropped) {
    report(Shed::Kind::evict, tenant, blocks, blocks * pool_.layout().block_bytes(), order.cause);
  }
  const std::uint64_t freed = pool_.trim();
  if (freed > 0) report(Shed::Kind::trim, shared_tenant, 1, freed, order.cause);
  if (order.excess_bytes > freed) shed(order, order.excess_bytes - freed);
}

// Sequences have blocks that the tree does not know yet, or has forgotten; what is on its way to
// them from the tier comes from where it is being removed.
void LoopEngine::apply_forget(const std::optional<TenantId>& tenant) {
  for (const auto& sequence : sequences_) {
    if (tenant && sequence->request.tenant != *tenant) continue;
    sequence->request.no_store = true;
    sequence->fetch.reset();
  }
  restore_.forget(tenant);
}

// Takes blocks from running sequences: from the tenant that is furthest over its share. Where
// nobody is, from whoever holds most, and then sequences only wait; they are not ended.
void LoopEngine::shed(const PressureOrder& order, std::uint64_t bytes) {
  const std::uint64_t block_bytes = pool_.layout().block_bytes();
  const auto wanted = static_cast<std::uint32_t>(
      std::min<std::uint64_t>((bytes + block_bytes - 1) / block_bytes, pool_.capacity()));
  const std::uint32_t used = pool_.capacity() - pool_.free_count();
  block_cap_ = used > wanted ? used - wanted : 0;

  struct Lost {
    std::uint32_t preempted = 0, cancelled = 0, preempted_blocks = 0, cancelled_blocks = 0;
  };
  std::map<TenantId, Lost> losses;
  const auto free_before = pool_.free_count();
  while (pool_.free_count() - free_before < wanted) {
    std::vector<PlannerSequence> views;
    std::vector<Sequence*> running;
    for (const auto& sequence : sequences_) {
      if (sequence->done || !sequence->running) continue;
      views.push_back(sequence->view());
      running.push_back(sequence.get());
    }
    auto victim = planner_.shed_victim(views, pool_.capacity(), order.level == PressureLevel::red);
    if (!victim && order.level == PressureLevel::red && running.size() == 1) {
      // Nobody else has anything left to give. If the oldest itself is what does not fit, it waits
      // until there is memory again: the kernel would take everybody.
      const std::uint64_t held = running[0]->blocks.held() * block_bytes;
      const auto missing = wanted - (pool_.free_count() - free_before);
      if (running[0]->blocks.held() >= missing && held > running[0]->request.guaranteed_bytes) {
        victim = Planner::Victim{0, false};
      }
    }
    if (!victim) break;
    Sequence& sequence = *running[victim->sequence];
    Lost& lost = losses[sequence.request.tenant];
    const auto before = pool_.free_count();
    // What it computed is not kept: it is the memory that is wanted.
    sequence.blocks.clear(pool_);
    const auto freed = pool_.free_count() - before;
    sequence.computed = 0;
    if (victim->over_share && order.level == PressureLevel::red) {
      ++lost.cancelled;
      lost.cancelled_blocks += freed;
      finish(sequence, FinishReason::error,
             Error(ErrorCode::resource_exhausted,
                   "the node ran out of memory and '" + sequence.request.tenant.get() +
                       "' held more than its share: this sequence was ended after " +
                       std::to_string(sequence.emitted) + " tokens")
                 .with_reason("memory_shed")
                 .retry_after(retry_ms));
    } else {
      ++lost.preempted;
      lost.preempted_blocks += freed;
      sequence.running = false;
      sequence.looked_up = false;
      ++sequence.preemptions;
      ++counters_.preemptions_total;
    }
  }
  for (const auto& [tenant, lost] : losses) {
    if (lost.preempted > 0) {
      report(Shed::Kind::preempt, tenant, lost.preempted, lost.preempted_blocks * block_bytes,
             order.cause);
    }
    if (lost.cancelled > 0) {
      report(Shed::Kind::cancel, tenant, lost.cancelled, lost.cancelled_blocks * block_bytes,
             order.cause);
    }
  }
  const std::uint64_t freed = pool_.trim();
  if (freed > 0) report(Shed::Kind::trim, shared_tenant, 1, freed, order.cause);
  shed_at_ = Clock::now();
}

void LoopEngine::report(Shed::Kind kind, const TenantId& tenant, std::uint32_t count,
                        std::uint64_t bytes, const std::string& cause) const {
  if (config_.on_shed) config_.on_shed({kind, tenant, count, bytes, cause});
}

void LoopEngine::end_overdue(Clock::time_point now) {
  for (const auto& owned : sequences_) {
    Sequence& sequence = *owned;
    if (sequence.done) continue;
    if (sequence.cancelled.load(std::memory_order_relaxed)) {
      finish(sequence, FinishReason::cancelled);
    } else if (sequence.request.deadline && now >= *sequence.request.deadline) {
      finish(sequence, FinishReason::error,
             Error(ErrorCode::deadline_exceeded,
                   "the deadline passed after " + std::to_string(sequence.emitted) + " tokens"));
    } else if (ends_at_ && now >= *ends_at_) {
      finish(sequence, FinishReason::error,
             Error(ErrorCode::unavailable, "the engine stopped before the sequence was finished")
                 .with_reason("draining")
                 .retry_after(retry_ms));
    } else if (!sequence.started && now >= sequence.submitted + config_.queue_time) {
      ++counters_.refused_total;
      finish(sequence, FinishReason::error,
             Error(ErrorCode::resource_exhausted, "the sequence waited " +
                                                      std::to_string(config_.queue_time.count()) +
                                                      " ms and could not start")
                 .with_reason("queue_time")
                 .retry_after(retry_ms));
    } else if (!sequence.samples() && !sequence.scores_prompt()) {
      finish(sequence, FinishReason::length);  // it came with all it asked for
    }
  }
}

}  // namespace plimsoll
