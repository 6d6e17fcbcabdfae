// What the actors say to each other. Every message is serializable, so that the same ones go
// between machines; a field that only means something inside this process is left out of inspect.
//
//   stream ──SubmitStream, CancelStream, AddCredit──► router ──RunStream, ...──► node ──► engine
//   stream ◄─────RateLimits, StreamEvents──────────── router ◄──NodeEvents────── node ◄── engine
//
// RateLimits is the router's first answer to a stream or an embedding, whether it admits it or not.
// Mailboxes are unbounded; what may be in one is bounded by credit (tokens), by the cap on open
// requests (submissions), and by the engines' queues.
#pragma once

#include <atomic>
#include <caf/all.hpp>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/cache_calls.h"
#include "actors/frontend.h"
#include "cluster/event.h"
#include "cluster/router.h"
#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/loop/engine.h"
#include "engine/memory/ledger.h"
#include "engine/sampling/sampler.h"

namespace plimsoll {

// A charge that travels with a message and ends when it has been read.
using MessageCharge = std::shared_ptr<Charge>;

// One choice of a stream: one sequence of an engine.
struct SequenceSpec {
  RequestId id;
  std::uint64_t seed = 0;
  std::vector<TokenId> resumed;  // emitted before a failover
  std::uint32_t credit = 0;      // tokens that may be emitted now
  bool prompt_logprobs = false;
};

// A request in tokens. Its sequences run on one node, so that they share the prompt's blocks.
struct SubmitStream {
  TenantId tenant;
  Endpoint endpoint = Endpoint::none;
  std::string model;
  std::vector<TokenId> prompt;
  SamplingParams sampling;  // but for the seed
  std::uint32_t max_new_tokens = 0;
  bool any_length = false;  // its client named no length: the router shortens it to the caps
  std::vector<TokenId> stop_tokens;
  std::uint32_t deadline_ms = 0;  // from when it is sent
  double weight = 1.0;            // of the tenant's tier; the router's to set
  // Of the tenant's prefix cache, this model's on one node; the router's to set. All ones: no
  // limit.
  std::uint64_t cache_bytes = ~std::uint64_t{0};
  CapacityClass capacity_class = CapacityClass::low_latency;
  bool worst_case = false;             // to be reserved; the router's to set, as is the next
  std::uint64_t guaranteed_bytes = 0;  // of KV, of this model on one node
  cluster::KvBytes kv;                 // for the tenant's quota
  bool no_store = false;               // what is computed for it goes to no cache on disk
  std::vector<SequenceSpec> sequences;
};

struct CancelSequences {
  std::vector<RequestId> ids;
};

// The client took this many tokens of a sequence.
struct AddCredit {
  RequestId id;
  std::uint32_t tokens = 0;
};

// What one engine step gave, from the engine thread to its node.
struct EngineEvents {
  std::vector<SequenceEvent> events;
  MessageCharge charge;
};
// The same, from the node to the router that submitted.
struct NodeEvents {
  std::string node;
  std::uint64_t epoch = 0;
  std::vector<SequenceEvent> events;
  MessageCharge charge;
};
// The part of one stream, from the router to its owner.
struct StreamEvents {
  std::vector<SequenceEvent> events;
  MessageCharge charge;
};

struct EmbedTokens {
  RequestId id;
  TenantId tenant;
  std::string model;
  std::vector<std::vector<TokenId>> inputs;
  std::uint32_t deadline_ms = 0;
  bool no_store = false;  // as in SubmitStream
  MessageCharge charge;   // of the inputs, until an engine has them
};
struct EmbedResult {
  RequestId id;
  std::vector<std::vector<float>> embeddings;
  std::optional<Error> error;
  MessageCharge charge;
  std::uint32_t cached_tokens = 0;  // of the inputs, those whose vectors were not computed
};

// A node says that it serves. A node that comes back has a higher epoch.
struct NodeUp {
  std::string node;
  std::uint64_t epoch = 0;
  double weight = 1.0;
  std::vector<std::string> models;
  std::string address = "local";  // "local": in this process, lost only when its actor ends
  std::string version;            // of its software
  bool cordoned = false;
};
// How far a node is with a model: loading while both are empty, else ready in this version, or
// failed.
struct ReplicaReport {
  std::string model;
  std::string version;
  std::string error;
  bool placed = false;  // by LoadModel: an UnloadModel may end it
};
// A heartbeat.
struct NodeReport {
  std::string node;
  std::uint64_t epoch = 0;
  std::vector<std::pair<std::string, EngineStats>> models;  // that are ready
  std::vector<ReplicaReport> replicas;
  bool draining = false;
  PressureLevel pressure = PressureLevel::green;
  std::uint64_t memory_used_bytes = 0;  // as the governor counts it
  std::uint64_t memory_limit_bytes = 0;
  std::uint64_t probe = 0;        // the last one of the router's, given back
  double round_trip_seconds = 0;  // of that probe; 0: not known, or no way to go
  std::uint32_t routers = 1;      // that the node reports to
  // Of another process: a link's to send, a proxy's to note.
  std::vector<cluster::Event> events;
  std::shared_ptr<const MemoryReport> memory;  // now and then
};

struct SetPressure {
  PressureLevel level = PressureLevel::green;
  std::uint64_t used_bytes = 0;
  std::uint64_t limit_bytes = 0;
  std::uint64_t excess_bytes = 0;  // to be freed now
  std::string cause;
};
// Serve one more model, or one less. `version`: that its file must have; empty: any.
struct LoadModel {
  std::string name;
  std::string source;
  std::string version;
  bool operator==(const LoadModel&) const = default;
};
struct UnloadModel {
  std::string name;
};
// All models that were added at run time, and the nodes that shall serve each; empty: all.
struct PlacedModel {
  LoadModel model;
  std::vector<std::string> nodes;
  bool operator==(const PlacedModel&) const = default;
};
struct SetPlacements {
  std::vector<PlacedModel> models;
};
// Of all tenants that have one of their own; from the records to the router, and to its nodes.
struct SetCachePolicies {
  CachePolicies tenants;
};
// To the router: a call to the cache on disk of one of its nodes.
struct AskNodeCache {
  std::string node;
  CacheCall call;
};
// Take nothing new; what still runs after the deadline ends with `unavailable`.
struct Drain {
  std::uint32_t deadline_ms = 0;
};

// A call from this process that runs inside the router actor: `run` gets the state machine, and the
// actions that it leaves are carried out.
struct InRouter {
  std::function<void(cluster::Router&, cluster::Time now, cluster::Actions&)> run;
};

struct ServedEngine;
// One attempt at loading a model. Who reads `wanted` as false need not begin, or has worked in
// vain.
struct LoadAttempt {
  LoadModel request;
  std::atomic<bool> wanted{true};
};
using LoadAttemptPtr = std::shared_ptr<LoadAttempt>;
// From a node to its loader: an engine to end; `ended` hears of it.
struct RetireEngine {
  std::shared_ptr<ServedEngine> engine;
  std::shared_ptr<std::promise<void>> ended;
};
// From a node to its clerk: a purge, and what has to be over before.
struct PurgeCache {
  storage::CachePurge what;
  std::vector<std::shared_future<void>> after;
};
// From the loader to its node.
struct EngineLoaded {
  LoadAttemptPtr attempt;
  std::shared_ptr<ServedEngine> engine;  // null: `error` says why
  std::optional<Error> error;
};

}  // namespace plimsoll
// These never leave the process.
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::InRouter)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::SetPlacements)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::SetCachePolicies)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::AskNodeCache)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::CacheCall)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::CacheAnswer)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::LoadAttemptPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::RetireEngine)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::PurgeCache)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(plimsoll::EngineLoaded)
namespace plimsoll {

enum class ModelState : std::uint8_t { loading, ready, failed, gone };
// One model as the registry knows it.
struct ModelEntry {
  std::string name;
  std::string version;  // "name@hash"; empty while loading
  std::string path;
  ModelState state = ModelState::loading;
  std::string reason;  // why it failed
  std::uint64_t created = 0;
  std::uint32_t context_tokens = 0;
  ModelInfo info;
};

// One message between processes: actors/wire.h.
struct Frame {
  std::string bytes;
};

using StartAtom = caf::atom_constant<caf::atom("start")>;
using TickAtom = caf::atom_constant<caf::atom("tick")>;
using CancelAtom = caf::atom_constant<caf::atom("cancel")>;
using ConsumedAtom = caf::atom_constant<caf::atom("consumed")>;
using IdleAtom = caf::atom_constant<caf::atom("idle")>;
using EndAllAtom = caf::atom_constant<caf::atom("end_all")>;

// The other end of a link between processes.
using FrameSink = caf::typed_actor<caf::reacts_to<Frame>>;
// Where a stream's events go.
using StreamSink = caf::typed_actor<caf::reacts_to<RateLimits>, caf::reacts_to<StreamEvents>>;
// The owner of one client's request.
using StreamActor = StreamSink::extend<caf::reacts_to<StartAtom>, caf::reacts_to<CancelAtom>,
                                       caf::reacts_to<ConsumedAtom, std::uint32_t>>;
// The owner of one client's embedding request.
using EmbedSink = caf::typed_actor<caf::reacts_to<RateLimits>, caf::reacts_to<EmbedResult>>;
using EmbedActor = EmbedSink::extend<caf::reacts_to<StartAtom>, caf::reacts_to<CancelAtom>>;
// Where a node's results and heartbeats go.
using NodeListener = caf::typed_actor<caf::reacts_to<NodeEvents>, caf::reacts_to<EmbedResult>,
                                      caf::reacts_to<NodeReport>>;
// CancelSequences also takes the ids of embedding requests. EngineEvents and EmbedResult come from
// the node's own engines.
using NodeActor =
    caf::typed_actor<caf::reacts_to<SubmitStream, NodeListener>,
                     caf::reacts_to<EmbedTokens, NodeListener>, caf::reacts_to<CancelSequences>,
                     caf::reacts_to<AddCredit>, caf::reacts_to<StartAtom, NodeListener>,
                     caf::reacts_to<SetPressure>, caf::reacts_to<Drain>, caf::reacts_to<LoadModel>,
                     caf::reacts_to<UnloadModel>, caf::reacts_to<SetCachePolicies>,
                     caf::replies_to<CacheCall>::with<CacheAnswer>, caf::reacts_to<EngineLoaded>,
                     caf::replies_to<IdleAtom>::with<bool>, caf::reacts_to<EngineEvents>,
                     caf::reacts_to<EmbedResult>, caf::reacts_to<TickAtom>>;
using RouterActor = NodeListener::extend<
    caf::reacts_to<SubmitStream, StreamSink>, caf::reacts_to<EmbedTokens, EmbedSink>,
    caf::reacts_to<CancelSequences>, caf::reacts_to<AddCredit>, caf::reacts_to<NodeUp, NodeActor>,
    caf::reacts_to<ModelEntry>, caf::reacts_to<SetPlacements>, caf::reacts_to<SetCachePolicies>,
    caf::replies_to<AskNodeCache>::with<CacheAnswer>, caf::reacts_to<Drain>,
    caf::reacts_to<EndAllAtom>, caf::reacts_to<InRouter>, caf::reacts_to<TickAtom>>;
// Loads a node's models and ends its engines, one after the other and in order.
using LoaderActor = caf::typed_actor<caf::reacts_to<LoadAttemptPtr>, caf::reacts_to<RetireEngine>>;
// Does what a node's cache on disk takes time for.
using CacheClerk = caf::typed_actor<caf::replies_to<PurgeCache>::with<CacheAnswer>>;
using RegistryActor = caf::typed_actor<caf::reacts_to<ModelEntry>>;

// ---- how each is written

template <class Inspector, class Tag, class Value>
typename Inspector::result_type inspect(Inspector& f, Strong<Tag, Value>& x) {
  return f(const_cast<Value&>(x.get()));
}

// std::optional and Boxed, which CAF 0.17 does not know: a flag, then the value if there is one.
template <class T>
struct OptionalValue {
  const bool& present;
  T& value;
  template <class Inspector>
  friend typename Inspector::result_type inspect(Inspector& f, OptionalValue& x) {
    return x.present ? f(x.value) : f();
  }
};
template <class Inspector, class Optional, class T>
typename Inspector::result_type inspect_optional(Inspector& f, Optional& x, T value) {
  if constexpr (Inspector::reads_state) {
    return x ? f(true, *x) : f(false);
  } else {
    bool present = false;
    OptionalValue<T> rest{present, value};
    auto result = f(present, rest);
    x = present ? Optional(std::move(value)) : Optional();
    return result;
  }
}
template <class Inspector, class T>
typename Inspector::result_type inspect(Inspector& f, std::optional<T>& x) {
  return inspect_optional(f, x, T());
}
template <class Inspector, class T>
typename Inspector::result_type inspect(Inspector& f, Boxed<T>& x) {
  return inspect_optional(f, x, T());
}

#define PLIMSOLL_INSPECT(type, ...)                                   \
  template <class Inspector>                                          \
  typename Inspector::result_type inspect(Inspector& f, type& x) {    \
    return f(caf::meta::type_name(#type) __VA_OPT__(, ) __VA_ARGS__); \
  }
PLIMSOLL_INSPECT(Error, x.code, x.message, x.reason, x.param, x.offset, x.retry_after_ms)
PLIMSOLL_INSPECT(SamplingParams, x.temperature, x.top_p, x.top_k, x.min_p, x.presence_penalty,
                 x.frequency_penalty, x.seed, x.top_logprobs, x.logit_bias)
PLIMSOLL_INSPECT(TokenLogprob, x.id, x.logprob)
PLIMSOLL_INSPECT(SampledToken, x.id, x.logprob, x.top)
PLIMSOLL_INSPECT(SequenceUsage, x.prompt_tokens, x.cached_tokens, x.generated_tokens, x.preemptions)
PLIMSOLL_INSPECT(SequenceEvent, x.id, x.prompt, x.tokens, x.finish, x.error, x.usage)
PLIMSOLL_INSPECT(EngineStats, x.waiting, x.running, x.paused, x.kv_blocks_total, x.kv_blocks_used,
                 x.kv_blocks_cached, x.steps_total, x.prompt_tokens_total,
                 x.cached_prompt_tokens_total, x.restored_tokens_total, x.generated_tokens_total,
                 x.preemptions_total, x.finished_total, x.refused_total, x.cancelled_total,
                 x.step_seconds_total, x.drafted_tokens_total, x.accepted_draft_tokens_total)
PLIMSOLL_INSPECT(ModelInfo, x.kind, x.architecture, x.name, x.layers, x.hidden, x.heads, x.kv_heads,
                 x.head_dim, x.vocab, x.context_tokens, x.window, x.window_pattern, x.parameters,
                 x.file_bytes, x.quantization)
PLIMSOLL_INSPECT(SequenceSpec, x.id, x.seed, x.resumed, x.credit, x.prompt_logprobs)
PLIMSOLL_INSPECT(SubmitStream, x.tenant, x.endpoint, x.model, x.prompt, x.sampling,
                 x.max_new_tokens, x.any_length, x.stop_tokens, x.deadline_ms, x.weight,
                 x.cache_bytes, x.capacity_class, x.worst_case, x.guaranteed_bytes, x.kv.token,
                 x.kv.windowed, x.kv.window, x.no_store, x.sequences)
PLIMSOLL_INSPECT(CancelSequences, x.ids)
PLIMSOLL_INSPECT(AddCredit, x.id, x.tokens)
PLIMSOLL_INSPECT(EngineEvents, x.events)
PLIMSOLL_INSPECT(NodeEvents, x.node, x.epoch, x.events)
PLIMSOLL_INSPECT(StreamEvents, x.events)
PLIMSOLL_INSPECT(RateLimits, x.requests, x.prompt_tokens, x.generated_tokens)
PLIMSOLL_INSPECT(EmbedTokens, x.id, x.tenant, x.model, x.inputs, x.deadline_ms, x.no_store)
PLIMSOLL_INSPECT(EmbedResult, x.id, x.embeddings, x.error, x.cached_tokens)
PLIMSOLL_INSPECT(NodeUp, x.node, x.epoch, x.weight, x.models, x.address, x.version, x.cordoned)
PLIMSOLL_INSPECT(ReplicaReport, x.model, x.version, x.error, x.placed)
PLIMSOLL_INSPECT(NodeReport, x.node, x.epoch, x.models, x.replicas, x.draining, x.pressure,
                 x.memory_used_bytes, x.memory_limit_bytes, x.probe, x.round_trip_seconds)
PLIMSOLL_INSPECT(SetPressure, x.level, x.used_bytes, x.limit_bytes, x.excess_bytes, x.cause)
PLIMSOLL_INSPECT(LoadModel, x.name, x.source, x.version)
PLIMSOLL_INSPECT(UnloadModel, x.name)
PLIMSOLL_INSPECT(Drain, x.deadline_ms)
PLIMSOLL_INSPECT(Frame, x.bytes)
PLIMSOLL_INSPECT(ModelEntry, x.name, x.version, x.path, x.state, x.reason, x.created,
                 x.context_tokens, x.info)
#undef PLIMSOLL_INSPECT

namespace cluster {
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, RateState& x) {
  return f(caf::meta::type_name("RateState"), x.limit, x.remaining, x.reset_s);
}
}  // namespace cluster

// The system of one process: message types known, no configuration file read, few threads.
class ActorSystemConfig : public caf::actor_system_config {
 public:
  explicit ActorSystemConfig(int threads);
};

// Heap that events hold, for the `queues` component.
std::uint64_t heap_bytes(const std::vector<SequenceEvent>& events);

}  // namespace plimsoll
