// The node actor: owns the engines of one node, turns messages into their calls, and sends what
// they emit to the router that asked for it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/messages.h"
#include "actors/node_cache.h"
#include "engine/kernels/cpu/thread_pool.h"
#include "engine/loop/embedding_engine.h"
#include "engine/loop/engine.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// One model as a node runs it: exactly one of the two engines. The pool outlives the engine.
struct ServedEngine {
  std::string model;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<EmbeddingEngine> embedding;
  std::string version;  // "name@hash"
  bool placed = false;  // by LoadModel, not by the configuration
  Charge promised{};    // what it may come to: its KV, weights that are not mapped, its steps
};

// Where engine threads post what they have made. Filled in by the node when it starts, which is
// before it can have given an engine anything to do.
struct NodeInbox {
  NodeActor node;
};
// Posts one EngineEvents a step, charged to `queues` until the node reads it.
EngineSink make_engine_sink(std::shared_ptr<NodeInbox> inbox, Ledger& ledger);

struct NodeConfig {
  std::string name;
  std::uint64_t epoch = 0;
  std::vector<ServedEngine> engines;
  std::shared_ptr<NodeInbox> inbox;  // the one that the engines' sinks have
  Ledger* ledger = nullptr;
  std::chrono::milliseconds heartbeat{200};
  // Loads one more model, on a thread that it may block; one at a time, and after the engines that
  // were unloaded before have ended. Absent: what there is stays.
  std::function<Result<ServedEngine>(const LoadModel&)> load;
  std::shared_ptr<NodeCache> cache;  // null: there is none
};

// The engines end with the actor.
NodeActor spawn_node(caf::actor_system& system, NodeConfig config);

}  // namespace plimsoll
