// The embedding loop: one thread that owns an embedding model and batches the inputs of several
// requests into one pass. Tenants take turns, an input each. Inputs whose vectors a tier keeps are
// not computed again, where reading is expected to be faster.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/loop/embedding_tier.h"
#include "engine/memory/ledger.h"
#include "engine/models/model.h"

namespace plimsoll {

struct EmbeddingEngineConfig {
  std::string model_version;
  StepLimits limits;                             // must equal the model's
  std::uint32_t max_batch = 32;                  // inputs in one pass
  std::uint32_t queue_length = 256;              // requests accepted and not finished
  std::uint32_t tenant_requests = 64;            // of them, of one tenant
  std::uint32_t request_inputs = 2048;           // inputs of one request
  std::chrono::milliseconds queue_time{30'000};  // a request not begun by then is refused
  std::shared_ptr<EmbeddingTier> tier;           // where vectors are kept; null: nowhere
};

struct EmbeddingRequest {
  RequestId id;
  TenantId tenant;
  std::vector<std::vector<TokenId>> inputs;  // 1 or more, each of 1 or more tokens
  std::optional<std::chrono::steady_clock::time_point> deadline;
  bool no_store = false;  // what is computed for it goes to no tier
};

struct EmbeddingOutcome {
  std::vector<std::vector<float>> vectors;  // of ModelInfo::hidden numbers, for each input in order
  std::uint32_t cached_tokens = 0;          // of the inputs whose vectors the tier had
};
// Called once, on the engine's thread, for every request that submit() accepted. Must not block.
using EmbeddingCallback = std::function<void(Result<EmbeddingOutcome>)>;

struct EmbeddingStats {
  std::uint32_t waiting = 0;  // requests of which no input has been computed
  std::uint32_t running = 0;  // requests partly computed
  std::uint64_t steps_total = 0, inputs_total = 0, tokens_total = 0;  // computed
  std::uint64_t cached_inputs_total = 0, cached_tokens_total = 0;     // taken from the tier
  std::uint64_t finished_total = 0, refused_total = 0, cancelled_total = 0;
  double step_seconds_total = 0;
};

class EmbeddingEngine {
 public:
  // What an engine takes beside its model.
  static std::uint64_t required_bytes(std::uint32_t max_batch, std::uint32_t hidden);

  // Errors: invalid_argument for a limit of zero.
  static Result<std::unique_ptr<EmbeddingEngine>> start(std::unique_ptr<EmbeddingModel> model,
                                                        const EmbeddingEngineConfig& config,
                                                        Ledger& ledger);
  virtual ~EmbeddingEngine() = default;  // cancels what is left, joins the thread

  // All thread-safe and non-blocking.
  // Errors, after which the callback is not called: resource_exhausted (queue or tenant cap
  // reached: retry_after_ms tells), invalid_argument (no inputs, an empty or over-long one, a token
  // outside the vocabulary, an id in use), unavailable (draining).
  virtual Result<void> submit(EmbeddingRequest request, EmbeddingCallback callback) = 0;
  virtual void cancel(RequestId id) = 0;  // the callback gets `cancelled` within one step
  // Accepts nothing new; what is accepted may finish until the deadline, then gets `unavailable`.
  virtual void drain(std::chrono::steady_clock::time_point deadline) = 0;
  virtual bool idle() const = 0;
  virtual EmbeddingStats stats() const = 0;
  virtual const ModelInfo& model() const = 0;
};

}  // namespace plimsoll
