// The engine's loop, shared by the files that implement it: what any thread may call (engine.cc),
// the loop and its steps (loop_engine.cc), what pressure and deadlines take (loop_pressure.cc), and
// what sequences are given (loop_events.cc).
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/batching/length_estimate.h"
#include "engine/batching/planner.h"
#include "engine/batching/step_cost.h"
#include "engine/batching/wait_estimate.h"
#include "engine/kv/block_pool.h"
#include "engine/kv/prefix_tree.h"
#include "engine/loop/engine.h"
#include "engine/loop/prefix_restore.h"
#include "engine/loop/sequence.h"
#include "engine/memory/arena.h"

namespace plimsoll {

class LoopEngine final : public Engine {
 public:
  using Clock = Sequence::Clock;
  static constexpr std::uint32_t retry_ms = 1000;

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
        demand_(KvDemand::of(pool_.layout(), std::min(config.chunk_tokens, config.limits.tokens))),
        planner_(planner_limits(PressureLevel::green), demand_),
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
  // What the prompt of a sequence that waits will add to steps.
  double prompt_seconds(const Sequence& sequence) const {
    const auto tokens = static_cast<std::uint32_t>(sequence.tokens.size());
    return cost_.added(sequence.expected, tokens - sequence.expected);
  }
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
  bool looks_up(const Sequence& sequence) const {  // its beginning, in the prefix tree
    return config_.prefix_sharing && !sequence.scores_prompt();
  }
  void expect_prefix(Sequence& sequence);
  void begin(Sequence& sequence);
  bool grow(Sequence& sequence, std::uint32_t tokens);
  void preempt(Sequence& sequence);
  void keep_prefix(Sequence& sequence);
  std::uint32_t cacheable_blocks(const SequenceRequest& request) const;
  void pass_windows(Sequence& sequence);
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
  double cached_share_ = 0;                    // of prompts that started lately
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
  const KvDemand demand_;
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
  double found_share_ = 0;                    // of prompts lately, that was known
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

}  // namespace plimsoll
