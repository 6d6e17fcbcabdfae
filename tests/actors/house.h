// The actors of a cluster with echo engines, for tests.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "actors/frontend_impl.h"
#include "actors/network.h"
#include "actors/node.h"
#include "actors/router.h"
#include "tests/actors/testing.h"

namespace plimsoll::testing {

// Each input's vector is {its number of tokens, its first token}.
class CountingEmbedder final : public EmbeddingEngine {
 public:
  Result<void> submit(EmbeddingRequest request, EmbeddingCallback callback) override {
    if (hold) {
      held_.emplace(request.id, std::move(callback));
      return {};
    }
    EmbeddingOutcome out;
    for (const auto& input : request.inputs) {
      out.vectors.push_back({static_cast<float>(input.size()), static_cast<float>(input[0])});
    }
    out.cached_tokens = cached_tokens;
    callback(std::move(out));
    return {};
  }
  void cancel(RequestId id) override {
    const auto it = held_.find(id);
    if (it == held_.end()) return;
    it->second(fail(ErrorCode::cancelled, "cancelled"));
    held_.erase(it);
  }
  void drain(std::chrono::steady_clock::time_point) override {}
  bool idle() const override { return held_.empty(); }
  EmbeddingStats stats() const override { return {}; }
  const ModelInfo& model() const override { return info_; }

  bool hold = false;
  std::uint32_t cached_tokens = 0;  // that it says of each request

 private:
  std::map<RequestId, EmbeddingCallback> held_;  // used by the node's actor only
  ModelInfo info_;
};

struct HouseOptions {
  int nodes = 1;
  std::chrono::microseconds step{0};
  std::uint32_t window = 256;
  std::uint32_t tenant_sequences = 64;
  std::uint32_t context = 4096;
  std::vector<cluster::Tenant> tenants{};  // with keys: nobody comes in without one
  std::uint32_t most_requests = 1000;
  std::uint64_t most_bytes = 16_MiB;  // of one tenant
  std::chrono::milliseconds deadline{20'000};
  bool hold_embeddings = false;
  std::uint32_t embedding_cached_tokens = 0;  // that engines say of each request
  bool park = false;                          // sequences that no node can take
  // Before a node loads what LoadModel asks for, an echo engine, on the loader's thread: why it
  // fails, if it does.
  std::function<std::optional<Error>(const std::string& node, const LoadModel&)> on_load{};
  std::function<std::shared_ptr<NodeCache>()> make_cache{};  // of each node
  bool network = false;  // for a door, where a silent node is not given up
  std::function<void(const std::string& tenant)> want_share{};
  std::chrono::milliseconds lease_patience{20'000};
};

struct House {
  explicit House(HouseOptions options = {})
      : open(options.most_requests),
        memory(2 * options.most_bytes),
        system(configured(config, options)),
        router(spawn_router(system, {tenants(options), board, &ledger, settings(options),
                                     options.want_share, options.lease_patience})) {
    for (int i = 0; i < options.nodes; ++i) add_node("node-" + std::to_string(i), 1, options);
    services.emplace(RequestServices{ledger, *board, metrics, history, open, memory, nullptr,
                                     nullptr, router, options.window, options.deadline});
    std::map<std::string, ClusterFrontend::Served> models;
    models["m"] = {std::make_shared<TextModel>("m", byte_model_text(), options.context),
                   ModelKind::causal,
                   "m@0",
                   {}};
    models["e"] = {
        std::make_shared<TextModel>("e", byte_model_text(), 64), ModelKind::embedding, "e@0", {}};
    for (const auto& tenant : options.tenants) {
      const auto made = directory->create_tenant(tenant);
      EXPECT_TRUE(made) << to_string(made.error());
    }
    frontend.emplace(system, *services, std::move(models),
                     Access{directory.get(), options.tenants.empty()});
    settle();
  }
  ~House() {
    for (auto& node : nodes) {
      if (node) caf::anon_send_exit(node, caf::exit_reason::user_shutdown);
    }
    open.wait_until_empty(std::chrono::steady_clock::now() + std::chrono::seconds(5));
    caf::anon_send_exit(router, caf::exit_reason::user_shutdown);
    system.await_all_actors_done();
  }

  static ActorSystemConfig& configured(ActorSystemConfig& config, const HouseOptions& options) {
    if (options.network) {
      const auto enabled = enable_network(config, {}, std::chrono::seconds(10));
      EXPECT_TRUE(enabled) << to_string(enabled.error());
    }
    return config;
  }
  static cluster::RouterSettings settings(const HouseOptions& options) {
    cluster::RouterSettings settings;
    if (!options.park) settings.park = cluster::Time(0);
    if (options.network) settings.health.timeout = cluster::Time(20);
    return settings;
  }
  static std::vector<cluster::Tenant> tenants(const HouseOptions& options) {
    cluster::Tenant local;
    local.name = "local";
    local.quota.sequences = options.tenant_sequences;
    cluster::Tenant slow;
    slow.name = "slow";
    slow.quota.requests_per_second = 0.01;
    slow.quota.burst_seconds = 100;
    return {local, slow};
  }

  void add_node(const std::string& name, std::uint64_t epoch, const HouseOptions& options) {
    auto inbox = std::make_shared<NodeInbox>();
    auto engine = std::make_unique<EchoEngine>(make_engine_sink(inbox, ledger), options.step);
    auto embedder = std::make_unique<CountingEmbedder>();
    embedder->hold = options.hold_embeddings;
    embedder->cached_tokens = options.embedding_cached_tokens;
    engines.push_back(engine.get());
    NodeConfig config;
    config.name = name;
    config.epoch = epoch;
    config.inbox = inbox;
    config.ledger = &ledger;
    config.heartbeat = std::chrono::milliseconds(10);
    if (options.make_cache) config.cache = options.make_cache();
    config.engines.push_back({"m", nullptr, std::move(engine), nullptr, "m@0"});
    config.engines.push_back({"e", nullptr, nullptr, std::move(embedder), "e@0"});
    config.load = [this, inbox, name, step = options.step,
                   on_load = options.on_load](const LoadModel& request) -> Result<ServedEngine> {
      if (on_load) {
        if (auto error = on_load(name, request)) return fail(std::move(*error));
      }
      auto loaded = std::make_unique<EchoEngine>(make_engine_sink(inbox, ledger), step);
      ServedEngine served;
      served.model = request.name;
      served.engine = std::move(loaded);
      served.version = request.version;
      return served;
    };
    nodes.push_back(spawn_node(system, std::move(config)));
    NodeUp up;
    up.node = name;
    up.epoch = epoch;
    up.models = {"m", "e"};
    introduce(router, nodes.back(), up);
  }

  // Until the router has read what was sent to it so far.
  void settle() {
    caf::scoped_actor self(system);
    self->request(router, caf::infinite, CancelSequences{})
        .receive([] {}, [](const caf::error& error) { FAIL() << caf::to_string(error); });
  }

  std::shared_ptr<Listener> generate(GenerateRequest request, bool consume = true) {
    auto listener = std::make_shared<Listener>();
    const std::lock_guard lock(listener->mutex);  // deltas wait for `stream`
    listener->consume = consume;
    listener->stream = frontend->generate(caller, std::move(request), listener);
    return listener;
  }
  std::shared_ptr<Listener> generate(const std::string& prompt, std::uint32_t max_tokens,
                                     bool consume = true) {
    GenerateRequest request;
    request.model = "m";
    request.input = prompt;
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    return generate(std::move(request), consume);
  }
  static GenerateRequest text(const std::string& prompt) {
    GenerateRequest request;
    request.model = "m";
    request.input = prompt;
    return request;
  }
  Result<EmbedResponse> embed(EmbedRequest request) {
    std::promise<Result<EmbedResponse>> promise;
    frontend->embed(caller, std::move(request),
                    [&](Result<EmbedResponse> r, const auto&) { promise.set_value(std::move(r)); });
    return promise.get_future().get();
  }

  std::int64_t held(Component component) const {
    std::int64_t bytes = 0;
    for (const auto& row : ledger.snapshot()) {
      if (row.component == component) bytes += row.bytes;
    }
    return bytes;
  }

  Ledger ledger;
  std::shared_ptr<Board> board = std::make_shared<Board>();
  Metrics metrics;
  History history{ledger};
  OpenRequests open;
  RequestMemory memory;
  ActorSystemConfig config{2};
  caf::actor_system system;
  RouterActor router;
  std::vector<NodeActor> nodes;
  std::vector<EchoEngine*> engines;  // owned by the nodes
  std::optional<RequestServices> services;
  std::unique_ptr<Directory> directory = *Directory::open(storage::make_memory_store(), "router");
  std::optional<ClusterFrontend> frontend;
  Caller caller{TenantId("local"), true};
};

}  // namespace plimsoll::testing
