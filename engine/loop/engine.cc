#include "engine/loop/engine.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <unordered_map>
#include <utility>

#include "engine/base/thread_slice.h"
#include "engine/batching/length_estimate.h"
#include "engine/batching/planner.h"
#include "engine/batching/step_cost.h"
#include "engine/batching/wait_estimate.h"
#include "engine/kv/block_pool.h"
#include "engine/kv/prefix_tree.h"
#include "engine/loop/prefix_restore.h"
#include "engine/loop/request.h"
#include "engine/loop/sequence.h"
#include "engine/memory/arena.h"

namespace plimsoll {
namespace {

using Clock = Sequence::Clock;

constexpr std::uint32_t retry_ms = 1000;
constexpr std::uint32_t tree_floor_divisor = 8;  // of the pool, what an orange level leaves cached
constexpr std::size_t remembered_tenants = 1024;
constexpr std::chrono::seconds offer_time{5};  // at the end, for what the prefix tree holds
constexpr double mean_keep = 0.95;             // of a running mean, when a value is added to it

std::uint64_t logit_bytes(const StepLimits& limits, std::uint32_t vocab) {
  return std::uint64_t{limits.logit_rows} * vocab * sizeof(float);
}

class LoopEngine final : public Engine {
 public:
  LoopEngine(std::unique_ptr<CausalModel> model, const EngineConfig& config, Ledger& ledger,
             EngineSink sink, BlockPool pool, Arena logits)
      : model_(std::move(model)),
        config_(config),
        ledger_(ledger),
        sink_(std::move(sink)),
        scratch_(ledger.account(Component::activations, config.model_version, shared_tenant),
                 Sampler::bytes(model_->info().vocab)),
        logits_(std::move(logits)),
        pool_(std::move(pool)),
        tree_(pool_, ledger, config.model_version),
        restore_(config.prefix_sharing ? config.tier : nullptr, pool_, tree_,
                 [this] {
                   const std::lock_guard lock(mutex_);
                   wake();
                 }),
        planner_(planner_limits(PressureLevel::green), config.block_tokens),
        sampler_(model_->info().vocab),
        costs_(config.step_cost) {
    planner_.set_cost(costs_.cost(), costs_.sure());
    stats_.kv_blocks_total = pool_.capacity();
    block_cap_ = pool_.capacity();
    const auto& headroom = planner_.limits().headroom;
    kept_blocks_ = std::accumulate(headroom.begin(), headroom.end(), 0U);
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), "engine");
  }

  ~LoopEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake();
    }
    thread_.join();
  }

  Result<void> submit(SequenceRequest request) override;
  void cancel(RequestId id) override;
  void add_credit(RequestId id, std::uint32_t tokens) override;
  void set_pressure(PressureOrder order) override;
  std::future<void> forget(std::optional<TenantId> tenant) override;
  void drain(Clock::time_point deadline) override;
  bool idle() const override { return unfinished_.load() == 0; }
  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  const ModelInfo& model() const override { return model_->info(); }

 private:
  struct Tenant {
    std::uint32_t index = 0;  // the planner's
    std::uint32_t sequences = 0;
    LengthEstimate lengths;  // of its generations
  };
  // Of a tenant with sequences, under mutex_.
  struct Load {
    std::uint32_t sequences = 0;
    Backlog backlog;
  };

  // Called from any thread, under mutex_.
  Result<void> refusal(Sequence& sequence) const;
  Result<void> late(Sequence& sequence) const;
  void wake() {
    ++mail_;
    condition_.notify_one();
  }

  // All of these on the engine's thread.
  void run();
  bool take_mail();
  void start_life(std::unique_ptr<Sequence> sequence);
  Tenant& tenant_of(const TenantId& id);
  void apply_pressure(const PressureOrder& order);
  void apply_forget(const std::optional<TenantId>& tenant);
  void shed(const PressureOrder& order, std::uint64_t bytes);
  void report(Shed::Kind kind, const TenantId& tenant, std::uint32_t count, std::uint64_t bytes,
              const std::string& cause) const;
  // Blocks that sequences and the tree may take before they have to give some up.
  std::uint32_t room() const {
    const std::uint32_t used = pool_.capacity() - pool_.free_count();
    return block_cap_ > used ? block_cap_ - used : 0;
  }
  PlannerLimits planner_limits(PressureLevel level) const;
  void end_overdue(Clock::time_point now);
  bool step();
  void read_views();
  void execute(const StepPlan& plan);
  void begin(Sequence& sequence);
  bool grow(Sequence& sequence, std::uint32_t tokens);
  void preempt(Sequence& sequence);
  void keep_prefix(Sequence& sequence);
  std::uint32_t cacheable_blocks(const SequenceRequest& request) const;
  void release_blocks(Sequence& sequence);
  void take_logits(Sequence& sequence, const PlannedChunk& chunk, std::span<float> logits);
  void take_token(Sequence& sequence, std::span<float> logits);
  void take_drafts(Sequence& sequence, std::span<const TokenId> drafts, std::span<float> logits);
  void charge_service(Sequence& sequence);
  void learn(Clock::time_point begin, Clock::time_point end);
  void publish_backlogs();
  SequenceEvent& event(Sequence& sequence);
  void finish(Sequence& sequence, FinishReason reason, std::optional<Error> error = {});
  void fail_all(const std::string& what);
  void emit();
  std::optional<Clock::time_point> next_deadline() const;

  const std::unique_ptr<CausalModel> model_;
  const EngineConfig config_;
  Ledger& ledger_;
  const EngineSink sink_;

  // Shared with the callers' threads.
  mutable std::mutex mutex_;
  std::condition_variable condition_;
  std::uint64_t mail_ = 0;  // counts what the loop has to look at
  std::vector<std::unique_ptr<Sequence>> inbox_;
  struct Forget {
    std::optional<TenantId> tenant;
    std::promise<void> done;
  };
  std::vector<Forget> forgets_;
  std::unordered_map<RequestId, Sequence*> by_id_;
  std::unordered_map<TenantId, Load> loads_;
  StepCost cost_;  // as last learnt
  Pace pace_;
  double uncached_share_ = 1;                  // of prompts, that has to be computed
  double lateness_ = 1;                        // by how much more expected waits are reckoned with
  std::uint32_t queued_ = 0;                   // sequences that have not started
  PressureOrder order_{PressureLevel::green};  // the last one
  Clock::time_point ordered_at_{};
  std::optional<Clock::time_point> drain_deadline_;
  bool stopping_ = false;
  EngineStats stats_;
  std::atomic<std::uint64_t> unfinished_{0};

  // The engine thread's own.
  Charge scratch_;
  Arena logits_;
  BlockPool pool_;
  PrefixTree tree_;
  PrefixRestore restore_;
  Planner planner_;
  Sampler sampler_;
  PressureLevel applied_ = PressureLevel::green;
  Clock::time_point shed_at_{};
  LengthEstimate lengths_;         // of all tenants' generations
  std::uint32_t kept_blocks_ = 0;  // the headroom of all classes
  std::uint32_t block_cap_ = 0;    // the pool's capacity, or what pressure has left of it
  StepCostEstimate costs_;
  StartRate starts_;
  LatenessBound lateness_bound_;
  bool queued_on_ = false;                    // sequences waited on when the last step was planned
  double computed_share_ = 1;                 // of prompts lately
  double step_seconds_ = 0;                   // of steps lately, mean
  Clock::time_point stepped_at_{};            // when the last one ended
  std::optional<Clock::time_point> ends_at_;  // the drain's deadline
  bool ending_ = false;
  std::unordered_map<TenantId, Tenant> tenants_;
  std::vector<std::uint32_t> free_tenants_;           // indexes
  std::vector<std::unique_ptr<Sequence>> sequences_;  // in order of arrival
  std::uint64_t arrivals_ = 0;
  std::uint64_t mail_seen_ = 0;
  std::vector<PlannerSequence> views_;
  std::vector<Sequence*> viewed_;
  std::vector<PlannedChunk> batch_;  // planned, with room
  std::vector<Sequence*> batch_sequences_;
  std::vector<SequenceChunk> chunks_;
  std::vector<SequenceEvent> events_;
  std::uint32_t started_ = 0;  // sequences that left the queue since the last publication
  std::uint32_t begun_ = 0;    // and in the last step
  std::vector<Sequence*> finished_;
  EngineStats counters_;
  std::thread thread_;
};

// --- From any thread ---

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
  const double wait = expected_wait(own, sequence.prompt_seconds, others, pace_);
  const double prompt = sequence.prompt_seconds * pace_.stretch;
  if (wait > 0) sequence.expected_ttft = wait + prompt;
  // What is on its way to the client, and streams that begin to decode meanwhile, take the rest.
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
  if (auto ok = check_request(request, model_->info(), config_, pool_.capacity()); !ok) {
    return refuse(std::move(ok));
  }
  // What it holds while it waits is charged before it is copied anywhere.
  const auto account = [&](Component component) -> Account& {
    return ledger_.account(component, config_.model_version, request.tenant, request.endpoint);
  };
  Charge waiting(account(Component::queues), peak_bytes(request, config_.block_tokens));
  Account& requests = account(Component::requests);
  Account& kv = account(Component::kv);
  auto sequence = std::make_unique<Sequence>(std::move(request), Clock::now());
  sequence->requests = &requests;
  sequence->kv = &kv;
  sequence->charge = std::move(waiting);
  const SequenceRequest& accepted = sequence->request;

  const std::lock_guard lock(mutex_);
  const auto tokens = static_cast<std::uint32_t>(sequence->tokens.size());
  sequence->prompt_seconds = cost_.added(0, tokens) * uncached_share_;
  if (auto ok = refusal(*sequence); !ok) {
    ++stats_.refused_total;
    return ok;
  }
  by_id_.emplace(accepted.id, sequence.get());
  Load& load = loads_[accepted.tenant];
  ++load.sequences;
  load.backlog.weight = accepted.weight;
  ++load.backlog.waiting;
  load.backlog.seconds += sequence->prompt_seconds;
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

// --- The engine's thread ---

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
  sequence.reserve = pool_.layout().blocks_for(sequence.prompt_tokens + generated);
  if (sequence.prompt_tokens + request.max_new_tokens >= config_.long_context_tokens) {
    sequence.request.capacity_class = CapacityClass::long_context;
  }
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
      const std::uint64_t held = running[0]->blocks.size() * block_bytes;
      const auto missing = wanted - (pool_.free_count() - free_before);
      if (running[0]->blocks.size() >= missing && held > running[0]->request.guaranteed_bytes) {
        victim = Planner::Victim{0, false};
      }
    }
    if (!victim) break;
    Sequence& sequence = *running[victim->sequence];
    Lost& lost = losses[sequence.request.tenant];
    const auto before = pool_.free_count();
    // What it computed is not kept: it is the memory that is wanted.
    release_blocks(sequence);
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

std::optional<Clock::time_point> LoopEngine::next_deadline() const {
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

// Whether there was anything to run.
bool LoopEngine::step() {
  read_views();
  if (views_.empty()) return false;
  if (block_cap_ < pool_.capacity()) {
    // Under pressure the oldest sequence is slowed down, not held up for good.
    std::uint32_t oldest = pool_.layout().blocks_for(views_.front().target) + 1;
    if (applied_ == PressureLevel::red) oldest = std::min(oldest, views_.front().blocks + 2);
    block_cap_ = std::max(block_cap_, std::min(oldest, pool_.capacity()));
  }
  const bool tight = [&] {
    std::int64_t wanted = kept_blocks_;
    for (const PlannerSequence& view : views_) {
      const std::uint32_t blocks =
          std::max(view.reserve, pool_.layout().blocks_for(view.target) + 1);
      wanted += std::int64_t{blocks} - std::min(blocks, view.blocks);
    }
    return wanted > room();
  }();
  std::uint32_t available = room();
  if (tight) {
    available += tree_.evictable();
    for (std::size_t i = 0; i < views_.size(); ++i) {
      for (const BlockId block : viewed_[i]->blocks) {
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
  uncached_share_ = computed_share_;
  lateness_ = lateness_bound_.factor();
  for (auto& [id, load] : loads_) load.backlog = {load.backlog.weight, 0, 0, 0};
  const auto add = [](const Sequence& sequence, double seconds) {
    sequence.backlog->waiting += !sequence.started;
    sequence.backlog->seconds += seconds;
  };
  std::uint32_t decoding = 0;
  double left = 0;  // tokens that those that run will still take
  for (const auto& sequence : sequences_) {
    if (sequence->done) continue;
    if (!sequence->started) {
      add(*sequence, sequence->prompt_seconds);
      continue;
    }
    const std::uint32_t missing =
        sequence->target() - std::min(sequence->computed, sequence->target());
    if (sequence->emitted == 0) add(*sequence, cost_.added(sequence->computed, missing));
    const std::uint32_t reserved = sequence->reserve * config_.block_tokens;
    left += std::max<double>(missing, static_cast<double>(reserved) - sequence->computed);
    ++decoding;
    ++sequence->backlog->running;
  }
  for (const auto& sequence : inbox_) add(*sequence, sequence->prompt_seconds);
  pace_ = {};
  if (!cost_.known()) return;
  const auto& limits = planner_.limits();
  const double rows = std::min<double>(decoding, limits.tokens / 2.0);
  const double steps = rows * (cost_.per_token + cost_.per_row);
  const double room =
      std::min((limits.tokens - rows) * cost_.per_token, planner_.prefill_seconds(steps));
  pace_.stretch = (cost_.base + steps + room) / room;
  pace_.places = limits.sequences;
  if (queued_on_ && decoding > 0) {
    // Sequences are, on average, in the middle of their lives.
    const double life = 2 * left / decoding * step_seconds_;
    pace_.starts_per_second = starts_.per_second(life > 0 ? decoding / life : 0);
  }
}

void LoopEngine::read_views() {
  views_.clear();
  viewed_.clear();
  const auto make_room = [this] { return room() > 0 || tree_.evict(1) > 0; };
  for (const auto& sequence : sequences_) {
    if (sequence->done || (!sequence->running && sequence->out_of_credit())) continue;
    if (sequence->fetch != nullptr &&
        restore_.waits(*sequence, Clock::now(), cacheable_blocks(sequence->request), make_room)) {
      continue;
    }
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
        {tokens, sequence.computed, sequence.blocks, chunk.logit_rows + chunk.drafts});
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

// Takes what the prefix tree knows of a waiting sequence.
void LoopEngine::begin(Sequence& sequence) {
  sequence.running = true;
  const TenantId& tenant = sequence.request.tenant;
  if (config_.prefix_sharing && !sequence.scores_prompt()) {
    sequence.computed =
        tree_.match(sequence.salt, tenant, std::span(sequence.tokens).first(sequence.target()),
                    sequence.blocks);
    sequence.charged = std::max(sequence.charged, sequence.computed);
  }
  if (sequence.started) return;
  sequence.started = true;
  ++started_;
  ++begun_;
  const double computed = 1 - static_cast<double>(sequence.computed) / sequence.tokens.size();
  computed_share_ = mean_keep * computed_share_ + (1 - mean_keep) * computed;
  sequence.cached = std::min(sequence.computed, sequence.prompt_tokens);
  counters_.prompt_tokens_total += sequence.prompt_tokens;
  counters_.cached_prompt_tokens_total += sequence.cached;
  // The same bytes, now those of a running sequence.
  sequence.charge = Charge(*sequence.requests, sequence.charge.bytes());
}

bool LoopEngine::grow(Sequence& sequence, std::uint32_t tokens) {
  const std::uint32_t needed = pool_.layout().blocks_for(tokens);
  while (sequence.blocks.size() < needed) {
    const auto missing = static_cast<std::uint32_t>(needed - sequence.blocks.size());
    if (room() < missing) tree_.evict(missing - room());
    auto block = pool_.allocate(sequence.kv);
    if (!block) return false;
    sequence.blocks.push_back(*block);
  }
  return true;
}

void LoopEngine::preempt(Sequence& sequence) {
  keep_prefix(sequence);
  release_blocks(sequence);
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
               std::span(sequence.blocks).first(full), cacheable_blocks(sequence.request),
               sequence.request.no_store ? BlockOrigin::unstored : BlockOrigin::computed);
}

std::uint32_t LoopEngine::cacheable_blocks(const SequenceRequest& request) const {
  const std::uint64_t blocks = request.cache_bytes / pool_.layout().block_bytes();
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks, pool_.capacity()));
}

void LoopEngine::release_blocks(Sequence& sequence) {
  for (const BlockId block : sequence.blocks) pool_.release(block);
  sequence.blocks.clear();
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

void LoopEngine::take_logits(Sequence& sequence, const PlannedChunk& chunk,
                             std::span<float> logits) {
  const std::size_t vocab = model_->info().vocab;
  const SamplingParams& sampling = sequence.request.sampling;
  for (std::uint32_t row = 0; row < chunk.logit_rows; ++row) {
    const std::uint32_t next = sequence.computed - chunk.logit_rows + row + 1;
    const auto numbers = logits.subspan(row * vocab, vocab);
    if (sequence.scores_prompt() && next < sequence.prompt_tokens) {
      sequence.scores.push_back(
          sampler_.score(numbers, sequence.tokens[next], sampling.top_logprobs));
      ++sequence.scored;
      if (!sequence.scores_prompt()) event(sequence).prompt = std::move(sequence.scores);
    }
    if (next != sequence.tokens.size() || !sequence.samples()) continue;
    if (sequence.generated().empty()) keep_prefix(sequence);  // others may wait for this prompt
    return take_token(sequence, numbers);
  }
  if (!sequence.samples() && !sequence.scores_prompt()) finish(sequence, FinishReason::length);
}

// The next token, from the logits behind the last one.
void LoopEngine::take_token(Sequence& sequence, std::span<float> logits) {
  const std::size_t next = sequence.tokens.size();
  SampledToken token =
      sampler_.sample(logits, sequence.request.sampling, next, sequence.generated());
  if (token.id == no_token) {
    sequence.computed = 0;
    return finish(sequence, FinishReason::error,
                  Error(ErrorCode::internal, "the model's logits at position " +
                                                 std::to_string(next) + " are not numbers"));
  }
  const auto& stops = sequence.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token.id) != stops.end()) {
    return finish(sequence, FinishReason::stop);
  }
  sequence.tokens.push_back(token.id);
  sequence.lookup.see(sequence.tokens);
  if (sequence.emitted == 0 && sequence.expected_ttft > 0) {
    const auto passed = Clock::now() - sequence.submitted;
    lateness_bound_.observe(sequence.expected_ttft, std::chrono::duration<double>(passed).count());
  }
  ++sequence.emitted;
  ++counters_.generated_tokens_total;
  event(sequence).tokens.push_back(std::move(token));
  if (!sequence.samples() && !sequence.scores_prompt()) finish(sequence, FinishReason::length);
}

// Row by row, as if each had been a step of its own: with the numbers that it would have had then.
// A draft is right if it is what was sampled. What was computed for the others is nobody's: it lies
// behind `computed`, and the next step writes over it.
void LoopEngine::take_drafts(Sequence& sequence, std::span<const TokenId> drafts,
                             std::span<float> logits) {
  const std::size_t vocab = model_->info().vocab;
  counters_.drafted_tokens_total += drafts.size();
  for (std::size_t i = 0; i < drafts.size() && !sequence.done; ++i) {
    if (sequence.tokens.back() != drafts[i]) break;
    ++sequence.computed;
    ++counters_.accepted_draft_tokens_total;
    charge_service(sequence);
    take_token(sequence, logits.subspan(i * vocab, vocab));
  }
}

SequenceEvent& LoopEngine::event(Sequence& sequence) {
  if (sequence.event == ~0U) {
    sequence.event = static_cast<std::uint32_t>(events_.size());
    events_.emplace_back();
    events_.back().id = sequence.request.id;
  }
  return events_[sequence.event];
}

void LoopEngine::finish(Sequence& sequence, FinishReason reason, std::optional<Error> error) {
  SequenceEvent& last = event(sequence);
  last.finish = reason;
  if (error) last.error = std::move(*error);
  last.usage = {sequence.prompt_tokens, sequence.cached,
                static_cast<std::uint32_t>(sequence.generated().size()), sequence.preemptions};
  if (reason == FinishReason::cancelled) ++counters_.cancelled_total;
  if (reason == FinishReason::stop || reason == FinishReason::length) {
    ++counters_.finished_total;
    if (sequence.request.max_new_tokens > 0) {
      tenants_.at(sequence.request.tenant).lengths.add(last.usage.generated_tokens);
      lengths_.add(last.usage.generated_tokens);
    }
  }
  keep_prefix(sequence);
  release_blocks(sequence);
  sequence.done = true;
  finished_.push_back(&sequence);
}

void LoopEngine::fail_all(const std::string& what) {
  for (const auto& sequence : sequences_) {
    if (sequence->done) continue;
    sequence->computed = 0;
    finish(*sequence, FinishReason::error,
           Error(ErrorCode::internal, "the engine's step failed: " + what));
  }
}

// Forgets the finished, publishes the figures, and hands the step's events over, in this order: who
// hears of an end finds the place free.
void LoopEngine::emit() {
  if (applied_ == PressureLevel::red && !finished_.empty()) pool_.trim();
  EngineStats now = counters_;
  now.restored_tokens_total = restore_.restored_tokens();
  now.kv_blocks_total = pool_.capacity();
  now.kv_blocks_used = pool_.capacity() - pool_.free_count();
  now.kv_blocks_cached = tree_.size();
  std::uint32_t ended_in_queue = 0;
  for (const auto& sequence : sequences_) {
    sequence->event = ~0U;
    if (sequence->done) {
      ended_in_queue += !sequence->started;
    } else if (sequence->out_of_credit()) {
      ++now.paused;
    } else if (sequence->running) {
      ++now.running;
    } else {
      ++now.waiting;
    }
  }
  for (const Sequence* sequence : finished_) {
    Tenant& tenant = tenants_.at(sequence->request.tenant);
    if (--tenant.sequences == 0) planner_.deactivate(tenant.index);
  }
  {
    const std::lock_guard lock(mutex_);
    for (const Sequence* sequence : finished_) {
      by_id_.erase(sequence->request.id);
      const auto load = loads_.find(sequence->request.tenant);
      if (--load->second.sequences == 0) loads_.erase(load);
    }
    publish_backlogs();
    queued_ -= started_ + ended_in_queue;
    now.waiting += static_cast<std::uint32_t>(inbox_.size());
    now.refused_total = stats_.refused_total + std::exchange(counters_.refused_total, 0);
    stats_ = now;
  }
  started_ = 0;
  if (!finished_.empty()) {
    std::erase_if(sequences_, [](const auto& sequence) { return sequence->done; });
  }
  if (!events_.empty()) {
    auto events = std::exchange(events_, {});
    try {
      sink_(std::move(events));
    } catch (...) {
      // The listener's failure is its own: the loop serves others too.
    }
  }
  unfinished_.fetch_sub(finished_.size());
  finished_.clear();
}

}  // namespace

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
  auto pool =
      BlockPool::make(model->kv_layout(config.block_tokens, config.kv_type), config.kv_budget_bytes,
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
