// The engine loop: one thread that owns a model, its KV pool, its prefix tree and its sampler, and
// runs steps: plan a batch, one forward pass, sample, emit. Everything else talks to it through a
// bounded queue; nothing inside a step takes a lock that is held across work.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/boxed.h"
#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/batching/capacity_class.h"
#include "engine/batching/step_cost.h"
#include "engine/kv/kv_tier.h"
#include "engine/memory/ledger.h"
#include "engine/models/model.h"
#include "engine/sampling/sampler.h"

namespace plimsoll {

// How far the governor lets the engine go; see DESIGN's pressure ladder.
enum class PressureLevel : std::uint8_t { green, yellow, orange, red };
struct PressureOrder {
  PressureOrder(PressureLevel l, std::uint64_t excess = 0, std::string why = {})
      : level(l), excess_bytes(excess), cause(std::move(why)) {}
  PressureLevel level;
  std::uint64_t excess_bytes;  // to be freed now; counts from orange on
  std::string cause;           // for what is written down
};

// What the engine gave up for an order.
struct Shed {
  enum class Kind : std::uint8_t {
    evict,    // cached blocks
    preempt,  // sequences, that are computed again later
    cancel,   // sequences, ended with a retryable error
    trim,     // pages of free blocks, back to the kernel
    refuse,   // sequences, that did not get in
  };
  Kind kind = Kind::evict;
  TenantId tenant;  // shared_tenant for trim
  std::uint32_t count = 0;
  std::uint64_t bytes = 0;
  std::string cause;
};

struct EngineConfig {
  std::string model_version;
  std::uint32_t block_tokens = 16;
  KvType kv_type = KvType::bf16;
  std::uint64_t kv_budget_bytes = 512_MiB;
  StepLimits limits;                             // must equal the model's
  std::uint32_t chunk_tokens = 256;              // of one sequence's prefill in one step
  std::uint32_t queue_length = 256;              // sequences waiting to start
  std::chrono::milliseconds queue_time{30'000};  // a sequence that waited longer is refused
  // To the first token. What would wait longer behind others is refused when it comes, but for the
  // class batch; 0: no such refusals.
  std::chrono::milliseconds ttft_objective{0};
  std::uint32_t tenant_sequences = 64;  // waiting and running, of one tenant
  // Of the KV pool, kept free for each capacity class: shares.
  std::array<double, capacity_classes> headroom{};
  // A sequence that may become this long is of the class long_context, whatever it says.
  std::uint32_t long_context_tokens = ~0U;
  bool prefix_sharing = true;
  // Sequences that repeat themselves decode several tokens in a step, where that is cheaper. What
  // they say is the same to the last bit.
  bool speculation = true;
  // What steps take; none: it is learnt from those that ran. Given, what the engine decides does
  // not hang on how fast the machine happens to be.
  std::optional<StepCost> step_cost;
  // Where blocks go that leave the prefix tree, and come back from; null: nowhere.
  std::shared_ptr<KvTier> tier;
  std::function<void(const Shed&)> on_shed;  // on any thread; must not block
};

struct SequenceRequest {
  RequestId id;
  TenantId tenant;
  Endpoint endpoint = Endpoint::none;  // it came by; for the ledger
  // Tenants that name the same group share prefixes; empty: with nobody. The operator's to set.
  std::string sharing_group;
  std::vector<TokenId> prompt;  // 1 or more tokens
  // Tokens already generated elsewhere, to go on from after a failover: part of the context and of
  // the penalties, not emitted again. Positions and random numbers continue behind them.
  std::vector<TokenId> resumed;
  bool no_store = false;  // what is computed for it goes to no tier
  SamplingParams sampling;
  std::uint32_t max_new_tokens = 16;  // counts `resumed`; 0 only with prompt_logprobs (scoring)
  std::vector<TokenId> stop_tokens;   // end the sequence; not emitted
  bool prompt_logprobs = false;       // score the prompt's tokens too
  std::uint32_t credit = ~0U;         // tokens that may be emitted before add_credit()
  double weight = 1.0;                // of the tenant next to others; over 0
  CapacityClass capacity_class = CapacityClass::low_latency;
  // Reserves its worst case before it starts; others what sequences like it came to need.
  bool worst_case = false;
  std::uint64_t guaranteed_bytes = 0;  // of KV, that its tenant has here whatever others do
  // Of the KV in the prefix tree, what this tenant may have put there; the last given counts.
  std::uint64_t cache_bytes = ~std::uint64_t{0};
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

enum class FinishReason : std::uint8_t { stop, length, cancelled, error };
std::string_view to_string(FinishReason reason);

struct SequenceUsage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;  // of the prompt, taken from the prefix tree
  std::uint32_t generated_tokens = 0;
  std::uint32_t preemptions = 0;
};

struct SequenceEvent {
  RequestId id;
  std::vector<SampledToken> prompt;    // once, if asked for: element 0 has no logprob
  std::vector<SampledToken> tokens;    // new ones, in order
  std::optional<FinishReason> finish;  // the last event of a sequence
  Boxed<Error> error;                  // with FinishReason::error
  SequenceUsage usage;                 // filled when finished
};

// Called on the engine thread, once a step with all sequences' events. Must not block.
using EngineSink = std::function<void(std::vector<SequenceEvent>&&)>;

struct EngineStats {
  std::uint32_t waiting = 0, running = 0, paused = 0;  // sequences; paused: out of credit
  // Used: not free. Cached: in the prefix tree, whether a sequence uses them too or not.
  std::uint32_t kv_blocks_total = 0, kv_blocks_used = 0, kv_blocks_cached = 0;
  std::uint64_t steps_total = 0, prompt_tokens_total = 0, cached_prompt_tokens_total = 0;
  std::uint64_t restored_tokens_total = 0;  // from the tier into the prefix tree
  std::uint64_t generated_tokens_total = 0, preemptions_total = 0;
  // Tokens computed in advance, and of them those that were generated then.
  std::uint64_t drafted_tokens_total = 0, accepted_draft_tokens_total = 0;
  std::uint64_t finished_total = 0, refused_total = 0, cancelled_total = 0;
  double step_seconds_total = 0;
};

class Engine {
 public:
  // What an engine takes beside its model and its KV.
  static std::uint64_t required_bytes(const StepLimits& limits, std::uint32_t vocab);

  // Errors: resource_exhausted, if the KV budget does not hold one sequence's first blocks.
  static Result<std::unique_ptr<Engine>> start(std::unique_ptr<CausalModel> model,
                                               const EngineConfig& config, Ledger& ledger,
                                               EngineSink sink);
  virtual ~Engine() = default;  // cancels what is left, joins the thread

  // All thread-safe and non-blocking.
  // Errors: resource_exhausted (queue or tenant cap reached, or never fits: retry_after_ms tells),
  // invalid_argument (empty prompt, over-long, token outside the vocabulary, bad sampling),
  // unavailable (draining).
  virtual Result<void> submit(SequenceRequest request) = 0;
  virtual void cancel(RequestId id) = 0;  // within one step; emits FinishReason::cancelled
  virtual void add_credit(RequestId id, std::uint32_t tokens) = 0;
  virtual void set_pressure(PressureOrder order) = 0;
  // Drops the prefixes of a tenant, or of all, that no sequence uses, and offers none of them to
  // the tier. What runs or waits goes on as if it had been submitted with no_store. Ready once it
  // is done: within one step.
  virtual std::future<void> forget(std::optional<TenantId> tenant) = 0;
  // Accepts nothing new; what runs may finish until the deadline, then ends with `unavailable`.
  virtual void drain(std::chrono::steady_clock::time_point deadline) = 0;
  virtual bool idle() const = 0;
  virtual EngineStats stats() const = 0;
  virtual const ModelInfo& model() const = 0;
};

}  // namespace plimsoll
