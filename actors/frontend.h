// What a gateway sees of the cluster: requests in text, answers in text, everything asynchronous.
//
// The HTTP and RPC gateways both sit on this interface; behind it, text becomes tokens, the router
// actor picks a node, and tokens come back as text. No gateway knows an actor.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/console.h"
#include "actors/request_memory.h"
#include "cluster/quota.h"
#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/loop/engine.h"
#include "engine/memory/process_memory.h"
#include "engine/sampling/sampler.h"

namespace plimsoll {

struct ChatMessage {
  std::string role;     // system, user, assistant or tool
  std::string content;  // valid UTF-8
};

// What a client that lost its server has of one choice; see schema/inference.capnp.
struct ReceivedChoice {
  std::vector<TokenId> tokens;
  std::uint64_t text_bytes = 0;
};

struct GenerateRequest {
  std::string id;  // the client's own name for it, for the log; may be empty
  std::string model;
  std::variant<std::vector<ChatMessage>, std::string, std::vector<TokenId>> input;
  SamplingParams sampling;
  std::optional<std::uint64_t> seed;        // absent: drawn at random; choice i uses seed + i
  std::uint32_t choices = 1;                // OpenAI's n
  std::optional<std::uint32_t> max_tokens;  // absent: the rest of the context
  std::vector<std::string> stop;            // ends a choice; not part of its text
  bool echo = false;                        // the prompt comes first, with logprobs if asked for
  bool ignore_eos = false;
  std::uint32_t deadline_ms = 0;  // 0: the operator's default
  bool no_store = false;          // nothing that is computed for it goes to a cache on disk
  // To go on with an answer that another server began: empty, or one for each choice.
  std::vector<ReceivedChoice> resumed;
};

inline Endpoint endpoint_of(const GenerateRequest& request) {
  return std::holds_alternative<std::vector<ChatMessage>>(request.input)
             ? Endpoint::chat_completions
             : Endpoint::completions;
}

// One token as text, for log-probabilities. `bytes` may be an incomplete UTF-8 sequence.
struct TokenText {
  std::string bytes;
  std::optional<float> logprob;  // absent for the first token of an echoed prompt
  struct Alternative {
    std::string bytes;
    float logprob;
  };
  std::vector<Alternative> top;
};

// A piece of one choice's answer. Text is valid UTF-8; what could still become part of a stop
// string or of an unfinished character is held back until it is certain.
struct GenerationDelta {
  std::uint32_t choice = 0;
  std::string text;
  std::vector<TokenId> ids;       // the tokens whose text is out with this, the oldest first
  std::vector<TokenText> tokens;  // the same ones, if logprobs were asked for
  std::uint32_t token_count = 0;  // for flow control: give it back through consumed()
  bool is_prompt = false;         // the echoed prompt
};

struct GenerationUsage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;
  std::uint32_t completion_tokens = 0;
};

// What is left of a tenant's rates after a request was admitted or refused, on this router.
struct RateLimits {
  cluster::RateState requests, prompt_tokens, generated_tokens;
};

// Receives one request's answer. Calls come one at a time, from threads of the actor system, and
// must not block. Nothing follows on_end.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  // At most once, before all else that the cluster answers.
  virtual void on_limits(const RateLimits& limits) { (void)limits; }
  virtual void on_delta(GenerationDelta&& delta) = 0;
  virtual void on_choice_end(std::uint32_t choice, FinishReason reason) = 0;
  // Every choice has ended, or `error` says why the request did. A request that was refused ends
  // here before any delta.
  virtual void on_end(const GenerationUsage& usage, std::optional<Error> error) = 0;
};

// The caller's hold on a running request. Thread-safe. Dropping it does not cancel.
class GenerationStream {
 public:
  virtual ~GenerationStream() = default;
  virtual void cancel() = 0;  // on_end follows with `cancelled`
  // The client has taken this many tokens: as many more may flow. What is not consumed stays
  // bounded by the stream's window, and the sequence pauses.
  virtual void consumed(std::uint32_t tokens) = 0;
};

struct EmbedRequest {
  std::string model;
  std::vector<std::variant<std::string, std::vector<TokenId>>> inputs;
  bool no_store = false;  // as in GenerateRequest
};
struct EmbedResponse {
  std::vector<std::vector<float>> embeddings;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;  // of them, those of inputs that were not computed
};
// The limits are absent where no quota was asked.
using EmbedCallback =
    std::function<void(Result<EmbedResponse>, const std::optional<RateLimits>& limits)>;

struct ModelCard {
  std::string name;  // what requests call it
  ModelInfo info;
  std::string version;               // name and content, for the ledger
  std::uint64_t created = 0;         // Unix time at which it was loaded
  std::uint32_t context_tokens = 0;  // as served
};

// How far a node is with a model. `reason`: why it failed, or is of no use to this router.
struct ReplicaStatus {
  std::string model;
  std::string state;  // loading, ready, failed
  std::string reason;
};

struct NodeStatus {
  std::string name;
  std::string state;                                        // joining, ready, draining, lost
  std::vector<std::pair<std::string, EngineStats>> models;  // by model name
  std::vector<ReplicaStatus> replicas;
  std::string address;  // "local": in this process
  std::string version;  // of its software
  std::uint64_t epoch = 0;
  double weight = 1;
  double slow_factor = 1;  // below 1: slower than its peers, and gets less
  double heartbeat_age_seconds = 0;
  std::uint32_t sequences = 0;  // that this router has there
  double tokens_per_second = 0;
  PressureLevel pressure = PressureLevel::green;
  std::uint64_t memory_used_bytes = 0;
  std::uint64_t memory_limit_bytes = 0;
};
// What a node last said of its memory.
struct NodeMemory {
  std::string node;
  double age_s = 0;
  std::uint32_t routers = 1;  // that it says so
  std::shared_ptr<const MemoryReport> report;
};
struct ClusterStatus {
  std::string version;
  double uptime_seconds = 0;
  PressureLevel pressure = PressureLevel::green;
  std::vector<NodeStatus> nodes;
};

// Who is calling: the tenant, and whether the operator's calls are open to it.
struct Caller {
  TenantId tenant;
  bool is_operator = false;
  bool has_guarantee = false;  // of memory: admitted though there is little
};

class Administration;

class Frontend {
 public:
  virtual ~Frontend() = default;

  // The caller that an API key stands for. An empty key is the anonymous local tenant where the
  // configuration has no keys, else `unauthenticated`.
  virtual Result<Caller> authenticate(std::string_view api_key) const = 0;

  // Whether the caller's requests are taken at all just now: asked before a body is read. Errors:
  // resource_exhausted (memory_pressure), unavailable.
  virtual Result<void> admits(const Caller& caller) const = 0;

  // Where gateways take the memory that requests need before they get here.
  virtual RequestMemory& request_memory() = 0;

  // Never fails here: errors come through on_end.
  virtual std::shared_ptr<GenerationStream> generate(
      const Caller& caller, GenerateRequest request,
      std::shared_ptr<GenerationListener> listener) = 0;
  // The callback runs once, on a thread of the actor system. The result cancels the request.
  virtual std::function<void()> embed(const Caller& caller, EmbedRequest request,
                                      EmbedCallback callback) = 0;

  virtual std::vector<ModelCard> models() const = 0;
  virtual bool ready() const = 0;  // models loaded, not draining
  virtual ClusterStatus status() const = 0;
  virtual Result<MemoryReport> memory() const = 0;  // of this process
  // This process's, the first, and that of each node that reports to it.
  virtual Result<std::vector<NodeMemory>> node_memory() const = 0;
  virtual std::string metrics() const = 0;  // Prometheus text exposition format
  virtual ConsoleView console(const ConsoleQuery& query) const = 0;
  // What an operator may do to the cluster; null where this process has none. Lives as long as the
  // frontend.
  virtual Administration* administration() = 0;
};

}  // namespace plimsoll
