#include "engine/loop/loop_engine.h"

#include <algorithm>
#include <exception>

#include "engine/base/thread_slice.h"

namespace plimsoll {
namespace {

constexpr std::size_t remembered_tenants = 1024;
constexpr std::chrono::seconds offer_time{5};  // at the end, for what the prefix tree holds
constexpr double mean_keep = 0.95;             // of a running mean, when a value is added to it
constexpr std::uint32_t most_starts = 16;      // in a step, for which it is known what they find

}  // namespace

void LoopEngine::run() {
  set_usual_slice();
  while (!take_mail()) {
    bool worked = false;
    try {
      end_overdue(Clock::now());
      worked = step();
    } catch (const std::exception& e) {
      fail_all(e.what());
    } catch (...) {
      fail_all("an exception of unknown type");
    }
    emit();
    if (worked) continue;
    std::unique_lock lock(mutex_);
    const auto has_mail = [&] { return mail_ != mail_seen_; };
    if (const auto deadline = next_deadline()) {
      condition_.wait_until(lock, *deadline, has_mail);
    } else {
      condition_.wait(lock, has_mail);
    }
  }
  for (const auto& sequence : sequences_) {
    if (!sequence->done) finish(*sequence, FinishReason::cancelled);
  }
  emit();
  restore_.offer_all(Clock::now() + offer_time);
}

// Whether the engine is to end.
bool LoopEngine::take_mail() {
  std::vector<std::unique_ptr<Sequence>> arrived;
  std::vector<Forget> forgets;
  std::optional<PressureOrder> order;
  {
    const std::lock_guard lock(mutex_);
    if (mail_ == mail_seen_) return ending_;
    mail_seen_ = mail_;
    arrived.swap(inbox_);
    forgets.swap(forgets_);
    if (order_.level != applied_ || order_.excess_bytes > 0) {
      order = order_;
      // Freed once: what was asked for before the last was freed, counted that in.
      if (ordered_at_ <= shed_at_) order->excess_bytes = 0;
      order_.excess_bytes = 0;
    }
    ends_at_ = drain_deadline_;
    ending_ = stopping_;
  }
  for (auto& sequence : arrived) start_life(std::move(sequence));
  for (auto& forget : forgets) {
    apply_forget(forget.tenant);
    forget.done.set_value();
  }
  if (order) apply_pressure(*order);
  return ending_;
}

void LoopEngine::start_life(std::unique_ptr<Sequence> owned) {
  Sequence& sequence = *owned;
  Tenant& tenant = tenant_of(sequence.request.tenant);
  ++tenant.sequences;
  const SequenceRequest& request = sequence.request;
  const auto guaranteed = std::min<std::uint64_t>(
      request.guaranteed_bytes / pool_.layout().block_bytes(), pool_.capacity());
  planner_.activate(tenant.index, request.weight, static_cast<std::uint32_t>(guaranteed));
  sequence.tenant = tenant.index;
  const std::uint32_t generated = request.worst_case
                                      ? request.max_new_tokens
                                      : tenant.lengths.expect(request.max_new_tokens, lengths_);
  sequence.reserve = demand_.rows(sequence.prompt_tokens + generated);
  if (sequence.prompt_tokens + request.max_new_tokens >= config_.long_context_tokens) {
    sequence.request.capacity_class = CapacityClass::long_context;
  }
  expect_prefix(sequence);
  sequence.order = arrivals_++;
  sequences_.push_back(std::move(owned));
  if (sequence.request.prompt_logprobs && !sequence.scores_prompt()) {
    event(sequence).prompt = std::move(sequence.scores);
  }
}

LoopEngine::Tenant& LoopEngine::tenant_of(const TenantId& id) {
  const auto found = tenants_.find(id);
  if (found != tenants_.end()) return found->second;
  if (tenants_.size() >= remembered_tenants) {
    std::erase_if(tenants_, [&](const auto& entry) {
      if (entry.second.sequences > 0) return false;
      planner_.forget(entry.second.index);
      free_tenants_.push_back(entry.second.index);
      return true;
    });
  }
  Tenant& tenant = tenants_[id];
  tenant.index = static_cast<std::uint32_t>(tenants_.size() + free_tenants_.size() - 1);
  if (!free_tenants_.empty()) {
    tenant.index = free_tenants_.back();
    free_tenants_.pop_back();
  }
  return tenant;
}

// Whether there was anything to run.
bool LoopEngine::step() {
  read_views();
  if (views_.empty()) return false;
  if (block_cap_ < pool_.capacity()) {
    // Under pressure the oldest sequence is slowed down, not held up for good.
    std::uint32_t oldest = demand_.blocks(demand_.rows(views_.front().target) + 1);
    if (applied_ == PressureLevel::red) {
      oldest = std::min(oldest, views_.front().blocks + 2 * demand_.layer_groups());
    }
    block_cap_ = std::max(block_cap_, std::min(oldest, pool_.capacity()));
  }
  const bool tight = [&] {
    std::int64_t wanted = kept_blocks_;
    for (const PlannerSequence& view : views_) {
      const std::uint32_t blocks =
          demand_.blocks(std::max(view.reserve, demand_.rows(view.target) + 1));
      wanted += std::int64_t{blocks} - std::min(blocks, view.blocks);
    }
    return wanted > room();
  }();
  std::uint32_t available = room();
  if (tight) {
    available += tree_.evictable();
    for (std::size_t i = 0; i < views_.size(); ++i) {
      for (const BlockId block : viewed_[i]->blocks.ids()) {
        if (block == no_block) continue;
        views_[i].freeable += pool_.references(block) == (tree_.holds(block) ? 2U : 1U);
      }
    }
  }
  const StepPlan& plan = planner_.plan(views_, available, block_cap_);
  if (plan.chunks.empty() && plan.preempted.empty()) return false;
  const auto waiting =
      std::ranges::count(views_, PlannerSequence::State::waiting, &PlannerSequence::state);
  const auto begin = Clock::now();
  execute(plan);
  const auto end = Clock::now();
  ++counters_.steps_total;
  counters_.step_seconds_total += std::chrono::duration<double>(end - begin).count();
  learn(begin, end);
  queued_on_ = waiting > begun_;
  return true;
}

// What the step took, and of whom.
void LoopEngine::learn(Clock::time_point begin, Clock::time_point end) {
  const double seconds = std::chrono::duration<double>(end - begin).count();
  std::uint32_t tokens = 0, rows = 0;
  double attended = 0;
  for (const SequenceChunk& chunk : chunks_) {
    const auto count = static_cast<std::uint32_t>(chunk.tokens.size());
    tokens += count;
    rows += chunk.logit_rows;
    attended += count * (chunk.start_position + count / 2.0);
  }
  if (!batch_.empty()) {
    costs_.add(tokens, static_cast<std::uint64_t>(attended), rows, seconds);
    planner_.set_cost(costs_.cost(), costs_.sure());
    step_seconds_ =
        step_seconds_ == 0 ? seconds : mean_keep * step_seconds_ + (1 - mean_keep) * seconds;
  }
  const double passed = stepped_at_ == Clock::time_point{}
                            ? 0
                            : std::chrono::duration<double>(end - stepped_at_).count();
  stepped_at_ = end;
  planner_.pass(passed);
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    const auto count = static_cast<std::uint32_t>(chunks_[i].tokens.size());
    planner_.use(batch_sequences_[i]->tenant,
                 costs_.cost().added(chunks_[i].start_position, count, chunks_[i].logit_rows));
  }
  if (queued_on_) starts_.pass(passed, begun_);
}

// Under mutex_: what is ahead of whoever comes next.
void LoopEngine::publish_backlogs() {
  cost_ = costs_.sure() ? costs_.cost() : StepCost{};
  cached_share_ = found_share_;
  lateness_ = lateness_bound_.factor();
  for (auto& [id, load] : loads_) load.backlog = {load.backlog.weight, 0, 0, 0};
  const auto add = [](const Sequence& sequence, double seconds) {
    sequence.backlog->waiting += !sequence.started;
    sequence.backlog->seconds += seconds;
  };
  std::uint32_t running = 0;
  double left = 0;  // tokens that those that run will still take
  for (const auto& sequence : sequences_) {
    if (sequence->done) continue;
    if (!sequence->started) {
      add(*sequence, prompt_seconds(*sequence));
      continue;
    }
    const std::uint32_t missing =
        sequence->target() - std::min(sequence->computed, sequence->target());
    if (sequence->emitted == 0) add(*sequence, cost_.added(sequence->computed, missing));
    const std::uint32_t reserved = sequence->reserve * config_.block_tokens;
    left += std::max<double>(missing, static_cast<double>(reserved) - sequence->computed);
    ++running;
    ++sequence->backlog->running;
  }
  for (const auto& sequence : inbox_) add(*sequence, prompt_seconds(*sequence));
  pace_ = {};
  if (!cost_.known()) return;
  const PlannerLimits& limits = planner_.limits();
  pace_ = {.cost = cost_,
           .tokens = limits.tokens,
           .step_seconds = limits.decode_step_seconds,
           .running = running,
           .places = limits.sequences};
  if (running == 0) return;
  // Sequences are, on average, in the middle of their lives.
  pace_.life_seconds = 2 * left / running * step_seconds_;
  if (queued_on_) {
    pace_.starts_per_second =
        starts_.per_second(pace_.life_seconds > 0 ? running / pace_.life_seconds : 0);
  }
}

void LoopEngine::read_views() {
  views_.clear();
  viewed_.clear();
  const auto make_room = [this] {
    const std::uint32_t row = demand_.layer_groups();
    if (room() < row) tree_.evict(row - room());
    return room() >= row;
  };
  std::uint32_t waiting = 0;
  for (const auto& sequence : sequences_) {
    if (sequence->done || (!sequence->running && sequence->out_of_credit())) continue;
    if (sequence->fetch != nullptr &&
        restore_.waits(*sequence, Clock::now(), cacheable_blocks(sequence->request), make_room)) {
      continue;
    }
    if (!sequence->running && waiting++ < most_starts) expect_prefix(*sequence);
    views_.push_back(sequence->view());
    if (config_.speculation && Planner::decodes(views_.back())) sequence->foretell(views_.back());
    viewed_.push_back(sequence.get());
  }
}

void LoopEngine::execute(const StepPlan& plan) {
  for (const std::uint32_t index : plan.preempted) preempt(*viewed_[index]);

  begun_ = 0;
  batch_.clear();
  batch_sequences_.clear();
  chunks_.clear();
  for (PlannedChunk chunk : plan.chunks) {
    Sequence& sequence = *viewed_[chunk.sequence];
    if (!sequence.running) {
      if (restore_.begins_to_wait(sequence, costs_.cost(), Clock::now())) continue;
      begin(sequence);
      // What the prefix tree knew makes the chunk shorter, or lets it reach the end.
      const PlannedChunk fitted = Planner::fit(sequence.view(), chunk.tokens, chunk.logit_rows);
      chunk.tokens = fitted.tokens;
      chunk.logit_rows = fitted.logit_rows;
    }
    const std::uint32_t end = sequence.computed + chunk.tokens;
    if (chunk.drafts > 0 && !grow(sequence, end + chunk.drafts)) chunk.drafts = 0;
    if (!grow(sequence, end)) {
      preempt(sequence);  // others hold more than was foreseen: it comes again
      continue;
    }
    batch_.push_back(chunk);
    batch_sequences_.push_back(&sequence);
  }
  if (batch_.empty()) return;

  for (std::size_t i = 0; i < batch_.size(); ++i) {
    Sequence& sequence = *batch_sequences_[i];
    const PlannedChunk& chunk = batch_[i];
    const std::span<const TokenId> tokens =
        chunk.drafts > 0 ? sequence.lookup.draft(sequence.tokens, chunk.drafts)
                         : std::span(sequence.tokens).subspan(sequence.computed, chunk.tokens);
    chunks_.push_back(
        {tokens, sequence.computed, sequence.blocks.ids(), chunk.logit_rows + chunk.drafts});
  }
  auto* logits = reinterpret_cast<float*>(logits_.data());
  const std::size_t vocab = model_->info().vocab;
  std::size_t i = 0;
  try {
    model_->forward(chunks_, pool_, logits);
    for (; i < batch_.size(); ++i) {
      Sequence& sequence = *batch_sequences_[i];
      const std::size_t numbers = chunks_[i].logit_rows * vocab;
      sequence.computed += batch_[i].tokens;
      charge_service(sequence);
      const std::span rows(logits, numbers);
      const std::size_t own = batch_[i].logit_rows * vocab;
      take_logits(sequence, batch_[i], rows.first(own));
      if (batch_[i].drafts > 0 && !sequence.done) {
        take_drafts(sequence, chunks_[i].tokens.subspan(1), rows.subspan(own));
      }
      logits += numbers;
      if (!sequence.done) pass_windows(sequence);
    }
  } catch (const std::exception& e) {
    // What the step wrote is not to be trusted: it is shared with nobody.
    for (; i < batch_.size(); ++i) {
      Sequence& sequence = *batch_sequences_[i];
      if (sequence.done) continue;
      sequence.computed = 0;
      finish(sequence, FinishReason::error,
             Error(ErrorCode::internal, std::string("the engine's step failed: ") + e.what()));
    }
  }
}

// So that a step has room for as many sequences as it can start: those that find most of their
// prompts need little of it.
void LoopEngine::expect_prefix(Sequence& sequence) {
  sequence.expected =
      looks_up(sequence) ? tree_.matching(sequence.salt, sequence.target_text()) : 0;
}

// Takes what the prefix tree knows of a waiting sequence.
void LoopEngine::begin(Sequence& sequence) {
  sequence.running = true;
  const TenantId& tenant = sequence.request.tenant;
  if (looks_up(sequence)) {
    std::vector<BlockId> rows;
    sequence.computed = tree_.match(sequence.salt, tenant, sequence.target_text(), rows);
    sequence.blocks.assign(std::move(rows), pool_.layout());
    sequence.charged = std::max(sequence.charged, sequence.computed);
  }
  if (sequence.started) return;
  sequence.started = true;
  ++started_;
  ++begun_;
  const double found = static_cast<double>(sequence.computed) / sequence.tokens.size();
  found_share_ = mean_keep * found_share_ + (1 - mean_keep) * found;
  sequence.cached = std::min(sequence.computed, sequence.prompt_tokens);
  counters_.prompt_tokens_total += sequence.prompt_tokens;
  counters_.cached_prompt_tokens_total += sequence.cached;
  // The same bytes, now those of a running sequence.
  sequence.charge = Charge(*sequence.requests, sequence.charge.bytes());
}

bool LoopEngine::grow(Sequence& sequence, std::uint32_t tokens) {
  const std::uint32_t rows = demand_.rows(tokens);
  while (sequence.blocks.rows() < rows) {
    const std::uint32_t missing = (rows - sequence.blocks.rows()) * demand_.layer_groups();
    if (room() < missing) tree_.evict(missing - room());
    if (!sequence.blocks.add_row(pool_, sequence.kv)) return false;
  }
  return true;
}

// What windowed layers see no more of goes. Within a prompt the tree is shown it first: this may be
// where texts part. (Its end has been kept.)
void LoopEngine::pass_windows(Sequence& sequence) {
  if (!sequence.blocks.passes(pool_.layout(), sequence.computed)) return;
  if (sequence.computed < sequence.prompt_tokens) keep_prefix(sequence);
  sequence.blocks.pass(pool_, sequence.computed);
}

void LoopEngine::preempt(Sequence& sequence) {
  keep_prefix(sequence);
  sequence.blocks.clear(pool_);
  sequence.running = false;
  sequence.computed = 0;
  sequence.looked_up = false;
  ++sequence.preemptions;
  ++counters_.preemptions_total;
}

// The full blocks that are computed stay known after the sequence is gone, until they are evicted.
void LoopEngine::keep_prefix(Sequence& sequence) {
  if (!config_.prefix_sharing) return;
  const std::uint32_t full = sequence.computed / pool_.layout().block_tokens;
  tree_.insert(sequence.salt, sequence.request.tenant, sequence.tokens,
               sequence.blocks.ids().first(full * demand_.layer_groups()),
               cacheable_blocks(sequence.request),
               sequence.request.no_store ? BlockOrigin::unstored : BlockOrigin::computed);
}

std::uint32_t LoopEngine::cacheable_blocks(const SequenceRequest& request) const {
  const std::uint64_t blocks = request.cache_bytes / pool_.layout().block_bytes();
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks, pool_.capacity()));
}

void LoopEngine::charge_service(Sequence& sequence) {
  // A recomputed token has been paid for.
  if (sequence.computed <= sequence.charged) return;
  const std::uint32_t prompt_end =
      std::clamp(sequence.prompt_tokens, sequence.charged, sequence.computed);
  planner_.serve(sequence.tenant,
                 (prompt_end - sequence.charged) * Planner::prompt_token_cost +
                     (sequence.computed - prompt_end) * Planner::output_token_cost);
  sequence.charged = sequence.computed;
}

std::optional<LoopEngine::Clock::time_point> LoopEngine::next_deadline() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&](Clock::time_point at) { next = next ? std::min(*next, at) : at; };
  for (const auto& sequence : sequences_) {
    if (sequence->request.deadline) consider(*sequence->request.deadline);
    if (ends_at_) consider(*ends_at_);
    if (!sequence->started) consider(sequence->submitted + config_.queue_time);
    if (sequence->fetch != nullptr) consider(sequence->fetch_until);
  }
  return next;
}

}  // namespace plimsoll
