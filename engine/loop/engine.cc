#include "engine/loop/engine.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "engine/loop/loop_engine.h"
#include "engine/loop/request.h"

namespace plimsoll {
namespace {

std::uint64_t logit_bytes(const StepLimits& limits, std::uint32_t vocab) {
  return std::uint64_t{limits.logit_rows} * vocab * sizeof(float);
}

}  // namespace

Result<void> LoopEngine::refusal(Sequence& sequence) const {
  const SequenceRequest& request = sequence.request;
  if (stopping_ || drain_deadline_) {
    return fail(Error(ErrorCode::unavailable, "the engine is draining: try another node")
                    .with_reason("draining")
                    .retry_after(retry_ms));
  }
  // With a guarantee it may wait for its turn within that.
  if (order_.level == PressureLevel::red && request.guaranteed_bytes == 0) {
    report(Shed::Kind::refuse, request.tenant, 1, 0, order_.cause);
    return fail(Error(ErrorCode::resource_exhausted,
                      "the node is short of memory and accepts no new sequences")
                    .with_reason("memory_pressure")
                    .retry_after(retry_ms));
  }
  if (queued_ >= config_.queue_length) {
    return fail(Error(ErrorCode::resource_exhausted,
                      "the queue is full: " + std::to_string(queued_) + " sequences wait to start")
                    .with_reason("queue_full")
                    .retry_after(retry_ms));
  }
  const auto load = loads_.find(request.tenant);
  if (load != loads_.end() && load->second.sequences >= config_.tenant_sequences) {
    return fail(Error(ErrorCode::resource_exhausted,
                      "tenant '" + request.tenant.get() + "' has " +
                          std::to_string(load->second.sequences) +
                          " sequences waiting or running, and may have no more")
                    .with_reason("tenant_sequences")
                    .retry_after(retry_ms));
  }
  if (by_id_.contains(request.id)) {
    return fail(Error(ErrorCode::invalid_argument,
                      "a sequence with id " + std::to_string(request.id.get()) + " is running")
                    .with_param("id"));
  }
  return late(sequence);
}

// Also foretells when its first token will come.
Result<void> LoopEngine::late(Sequence& sequence) const {
  const SequenceRequest& request = sequence.request;
  if (sequence.tokens.size() > sequence.prompt_tokens) return {};  // it goes on: it had it
  Backlog own{request.weight, 0, 0, 0};
  std::vector<Backlog> others;
  others.reserve(loads_.size());
  for (const auto& [id, load] : loads_) {
    if (id == request.tenant) {
      own = load.backlog;
    } else {
      others.push_back(load.backlog);
    }
  }
  const auto [wait, prompt] = expected_wait(own, prompt_seconds(sequence), others, pace_);
  if (wait > 0) sequence.expected_ttft = wait + prompt;
  // What is on its way to the client takes the rest.
  constexpr double usable = 0.85;
  const double objective = usable * std::chrono::duration<double>(config_.ttft_objective).count();
  if (objective <= 0 || request.capacity_class == CapacityClass::batch) return {};
  // Whoever asks for a long prompt knows that it takes its time; it may wait as others do.
  const double patience = std::max(objective - prompt * lateness_, objective / 4);
  if (wait * lateness_ <= patience) return {};
  const double again = std::clamp(wait - patience / 2, 1.0, 60.0);
  return fail(Error(ErrorCode::resource_exhausted,
                    "the first token would take about " +
                        std::to_string(static_cast<int>(std::ceil(wait * 1000))) +
                        " ms of waiting behind others, and the objective is " +
                        std::to_string(config_.ttft_objective.count()) + " ms")
                  .with_reason("queue_wait")
                  .retry_after(static_cast<std::uint32_t>(again * 1000)));
}

Result<void> LoopEngine::submit(SequenceRequest request) {
  const auto refuse = [&](Result<void> why) {
    const std::lock_guard lock(mutex_);
    ++stats_.refused_total;
    return why;
  };
  if (auto ok = check_request(request, model_->info(), config_, demand_, pool_.capacity()); !ok) {
    return refuse(std::move(ok));
  }
  // What it holds while it waits is charged before it is copied anywhere.
  const auto account = [&](Component component) -> Account& {
    return ledger_.account(component, config_.model_version, request.tenant, request.endpoint);
  };
  Charge waiting(account(Component::queues), peak_bytes(request, demand_));
  Account& requests = account(Component::requests);
  Account& kv = account(Component::kv);
  auto sequence = std::make_unique<Sequence>(std::move(request), Clock::now());
  sequence->requests = &requests;
  sequence->kv = &kv;
  sequence->charge = std::move(waiting);
  const SequenceRequest& accepted = sequence->request;

  const std::lock_guard lock(mutex_);
  sequence->expected = static_cast<std::uint32_t>(cached_share_ * sequence->tokens.size());
  if (auto ok = refusal(*sequence); !ok) {
    ++stats_.refused_total;
    return ok;
  }
  by_id_.emplace(accepted.id, sequence.get());
  Load& load = loads_[accepted.tenant];
  ++load.sequences;
  load.backlog.weight = accepted.weight;
  ++load.backlog.waiting;
  load.backlog.seconds += prompt_seconds(*sequence);
  sequence->backlog = &load.backlog;
  ++queued_;
  ++stats_.waiting;
  unfinished_.fetch_add(1);
  inbox_.push_back(std::move(sequence));
  wake();
  return {};
}

void LoopEngine::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  found->second->cancelled.store(true, std::memory_order_relaxed);
  wake();
}

void LoopEngine::add_credit(RequestId id, std::uint32_t tokens) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  found->second->credit.fetch_add(tokens, std::memory_order_relaxed);
  wake();
}

void LoopEngine::set_pressure(PressureOrder order) {
  const std::lock_guard lock(mutex_);
  // Nothing to do is nothing to wake up for.
  const bool news = order.level != order_.level || order.excess_bytes > 0;
  order_ = std::move(order);
  ordered_at_ = Clock::now();
  if (news) wake();
}

std::future<void> LoopEngine::forget(std::optional<TenantId> tenant) {
  const std::lock_guard lock(mutex_);
  auto& forget = forgets_.emplace_back();
  forget.tenant = std::move(tenant);
  wake();
  return forget.done.get_future();
}

void LoopEngine::drain(Clock::time_point deadline) {
  const std::lock_guard lock(mutex_);
  drain_deadline_ = deadline;
  wake();
}

std::uint64_t Engine::required_bytes(const StepLimits& limits, std::uint32_t vocab) {
  return logit_bytes(limits, vocab) + Sampler::bytes(vocab);
}

Result<std::unique_ptr<Engine>> Engine::start(std::unique_ptr<CausalModel> model,
                                              const EngineConfig& config, Ledger& ledger,
                                              EngineSink sink) {
  const StepLimits& limits = config.limits;
  if (limits.tokens == 0 || limits.sequences == 0 || limits.logit_rows == 0 ||
      limits.context_tokens == 0 || config.chunk_tokens == 0 || config.block_tokens == 0) {
    return fail(ErrorCode::invalid_argument,
                "every step limit, chunk_tokens and block_tokens must be at least 1");
  }
  auto pool = BlockPool::make(kv_layout(model->info(), config.block_tokens, config.kv_type),
                              config.kv_budget_bytes,
                              ledger.account(Component::kv, config.model_version, shared_tenant));
  if (!pool) return fail(std::move(pool.error()));
  auto logits =
      Arena::make(ledger.account(Component::activations, config.model_version, shared_tenant),
                  logit_bytes(limits, model->info().vocab));
  if (!logits) return fail(std::move(logits.error()));
  return std::make_unique<LoopEngine>(std::move(model), config, ledger, std::move(sink),
                                      std::move(*pool), std::move(*logits));
}

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::cancelled: return "cancelled";
    case FinishReason::error: return "error";
  }
  return "unknown";
}

}  // namespace plimsoll
