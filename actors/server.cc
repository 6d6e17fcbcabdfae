#include "actors/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <thread>
#include <utility>

#include "actors/frontend_impl.h"
#include "actors/governor.h"
#include "actors/node.h"
#include "actors/registry.h"
#include "actors/router.h"

namespace plimsoll {
namespace {

constexpr int scheduler_threads = 2;
// What clients may have open at once, whoever they are; tenants have caps of their own.
constexpr std::uint32_t most_requests = 4096;
constexpr std::uint64_t most_request_bytes = 256_MiB;
// After the drain's deadline, engines need a step to let go.
constexpr std::chrono::seconds step_grace{5};
constexpr const char* node_name = "local";

std::map<std::string, cluster::TenantLimits> tenant_limits(
    const std::vector<TenantConfig>& tenants) {
  std::map<std::string, cluster::TenantLimits> limits;
  bool keys = false;
  for (const auto& tenant : tenants) {
    // A tenth of a minute's worth may come at once.
    limits[tenant.name.get()] = {.sequences = tenant.sequences,
                                 .requests_per_second = tenant.requests_per_minute / 60.0,
                                 .burst = tenant.requests_per_minute / 10.0};
    keys = keys || !tenant.api_key_sha256.empty();
  }
  if (!keys) limits.try_emplace("local");  // whom authenticate() takes everyone for
  return limits;
}

int thread_count(const EngineSettings& settings) {
  if (settings.threads > 0) return settings.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// A model that is ready to serve: its engine, its text side, and what the registry says of it.
struct Started {
  ServedEngine engine;
  ClusterFrontend::Served served;
  ModelEntry entry;
};

class Loader {
 public:
  Loader(const ServerConfig& config, const ModelSource& source, Ledger& ledger,
         std::shared_ptr<NodeInbox> inbox)
      : config_(config), source_(source), ledger_(ledger), inbox_(std::move(inbox)) {}

  Result<Started> load(const ModelConfig& model, const Server::LoadProgress& progress) const {
    auto info = source_.probe(model);
    if (!info) return fail(std::move(info.error()));
    auto hash = source_.content_hash(model);
    if (!hash) return fail(std::move(hash.error()));
    auto text = source_.text(model);
    if (!text) return fail(std::move(text.error()));

    const auto& settings = config_.engine;
    Started out;
    out.entry.name = model.name;
    out.entry.version = model.name + "@" + *hash;
    out.entry.path = model.path.string();
    out.entry.info = *info;
    out.engine.model = model.name;
    out.engine.pool = std::make_unique<ThreadPool>(thread_count(settings));

    LoadOptions options;
    options.model_version = out.entry.version;
    options.compute = model.compute;
    options.cache_directory = settings.packed_directory;
    options.limits.context_tokens = std::min(settings.context_tokens, info->context_tokens);
    options.limits.sequences = settings.max_batch;
    options.limits.logit_rows = settings.max_batch;
    options.limits.tokens = settings.step_tokens;
    options.ledger = &ledger_;
    options.pool = out.engine.pool.get();
    if (progress) {
      options.progress = [&](std::uint64_t done, std::uint64_t total) {
        progress(model.name, done, total);
      };
    }
    out.entry.context_tokens = options.limits.context_tokens;
    auto started = info->kind == ModelKind::causal ? start_causal(model, options, out)
                                                   : start_embedding(model, options, out);
    if (!started) return fail(std::move(started.error()));

    const auto tokenizer_bytes = text->tokenizer->memory_bytes();
    out.served.memory = Charge(
        ledger_.account(Component::tokenizer, out.entry.version, shared_tenant), tokenizer_bytes);
    out.served.text =
        std::make_shared<TextModel>(model.name, std::move(*text), out.entry.context_tokens);
    out.served.kind = info->kind;
    out.served.version = out.entry.version;
    out.entry.state = ModelState::ready;
    out.entry.created = static_cast<std::uint64_t>(std::time(nullptr));
    return out;
  }

 private:
  Result<void> start_causal(const ModelConfig& model, const LoadOptions& options,
                            Started& out) const {
    auto causal = source_.causal(model, options);
    if (!causal) return fail(std::move(causal.error()));
    const auto& settings = config_.engine;
    // No sequence may be longer than what the pool holds: it could never end.
    const auto block_bytes =
        (*causal)->kv_layout(settings.block_tokens, settings.kv_type).block_bytes();
    const std::uint64_t pool_tokens = settings.kv_bytes / block_bytes * settings.block_tokens;
    if (pool_tokens > 0 && pool_tokens < out.entry.context_tokens) {
      spdlog::warn("event=context_capped model={} context_tokens={} kv_memory_holds={}", model.name,
                   out.entry.context_tokens, pool_tokens);
      out.entry.context_tokens = static_cast<std::uint32_t>(pool_tokens);
    }
    EngineConfig config;
    config.model_version = options.model_version;
    config.block_tokens = settings.block_tokens;
    config.kv_type = settings.kv_type;
    config.kv_budget_bytes = settings.kv_bytes;
    config.limits = options.limits;
    config.chunk_tokens = settings.chunk_tokens;
    config.queue_length = settings.queue_length;
    config.queue_time = settings.queue_time;
    config.tenant_sequences = most_sequences();
    config.prefix_sharing = settings.prefix_sharing;
    auto engine =
        Engine::start(std::move(*causal), config, ledger_, make_engine_sink(inbox_, ledger_));
    if (!engine) return fail(std::move(engine.error()));
    out.engine.engine = std::move(*engine);
    return {};
  }

  Result<void> start_embedding(const ModelConfig& model, LoadOptions options, Started& out) const {
    // One input is never split.
    options.limits.tokens = std::max(options.limits.tokens, options.limits.context_tokens);
    auto embedding = source_.embedding(model, options);
    if (!embedding) return fail(std::move(embedding.error()));
    const auto& settings = config_.engine;
    EmbeddingEngineConfig config;
    config.model_version = options.model_version;
    config.limits = options.limits;
    config.max_batch = settings.max_batch;
    config.queue_length = settings.queue_length;
    config.tenant_requests = most_sequences();
    config.request_inputs = RequestLimits::embedding_inputs;
    config.queue_time = settings.queue_time;
    auto engine = EmbeddingEngine::start(std::move(*embedding), config, ledger_);
    if (!engine) return fail(std::move(engine.error()));
    out.engine.embedding = std::move(*engine);
    return {};
  }

  // The router keeps each tenant's own cap.
  std::uint32_t most_sequences() const {
    std::uint32_t most = cluster::TenantLimits{}.sequences;
    for (const auto& tenant : config_.tenants) most = std::max(most, tenant.sequences);
    return most;
  }

  const ServerConfig& config_;
  const ModelSource& source_;
  Ledger& ledger_;
  std::shared_ptr<NodeInbox> inbox_;
};

}  // namespace

struct Server::Impl {
  Impl(const ServerConfig& c, Ledger& l) : config(c), ledger(l) {}

  const ServerConfig config;
  Ledger& ledger;
  std::shared_ptr<Board> board = std::make_shared<Board>();
  Metrics metrics;
  OpenRequests open{most_requests, most_request_bytes};
  ActorSystemConfig system_config{scheduler_threads};
  caf::actor_system system{system_config};
  RouterActor router = spawn_router(system, {tenant_limits(config.tenants), board, &ledger});
  RegistryActor registry = spawn_registry(system, board);
  NodeActor node;
  GovernorActor governor;
  std::optional<RequestServices> services;
  std::optional<ClusterFrontend> frontend;
  bool stopped = false;

  // Errors end the process's start: what was started is taken down by ~Impl.
  Result<void> start(const LoadProgress& progress, const ModelSource& source) {
    auto inbox = std::make_shared<NodeInbox>();
    const Loader loader(config, source, ledger, inbox);
    NodeConfig node_config;
    NodeUp description;
    std::map<std::string, ClusterFrontend::Served> served;
    std::vector<ModelEntry> entries;
    for (const auto& model : config.models) {
      if (served.contains(model.name)) {
        return fail(ErrorCode::invalid_argument, "two models are named '" + model.name + "'");
      }
      ModelEntry entry;
      entry.name = model.name;
      entry.path = model.path.string();
      caf::anon_send(registry, entry);
      auto started = loader.load(model, progress);
      if (!started) {
        entry.state = ModelState::failed;
        entry.reason = to_string(started.error());
        caf::anon_send(registry, std::move(entry));
        Error error = std::move(started.error());
        error.message = "model '" + model.name + "': " + error.message;
        return fail(std::move(error));
      }
      description.models.push_back(model.name);
      node_config.engines.push_back(std::move(started->engine));
      served.emplace(model.name, std::move(started->served));
      entries.push_back(std::move(started->entry));
    }

    description.node = node_config.name = node_name;
    description.epoch = node_config.epoch = static_cast<std::uint64_t>(std::time(nullptr));
    node_config.inbox = inbox;
    node_config.ledger = &ledger;
    node = spawn_node(system, std::move(node_config));
    introduce(router, node, std::move(description));
    governor = spawn_governor(
        system,
        {.sample = process_sampler(config.memory_limit_bytes), .board = board, .node = node});

    // The actors' answers tell that all of this has arrived.
    caf::scoped_actor self(system);
    for (auto& entry : entries) {
      if (auto put = call(self, registry, std::move(entry)); !put) return put;
    }
    if (auto up = call(self, node, SetPressure{}); !up) return up;
    if (auto up = call(self, router, CancelSequences{}); !up) return up;

    services.emplace(RequestServices{ledger, *board, metrics, open, router,
                                     config.stream_window_tokens, config.request_deadline});
    frontend.emplace(system, *services, config.tenants, std::move(served));
    return {};
  }

  template <class Actor, class Message>
  static Result<void> call(caf::scoped_actor& self, const Actor& actor, Message message) {
    Result<void> result;
    self->request(actor, std::chrono::seconds(10), std::move(message))
        .receive([] {},
                 [&](const caf::error& error) {
                   result = fail(ErrorCode::internal,
                                 "an actor does not answer: " + caf::to_string(error));
                 });
    return result;
  }

  void drain(std::chrono::milliseconds deadline) {
    open.close();
    caf::anon_send(router,
                   Drain{static_cast<std::uint32_t>(std::max<std::int64_t>(0, deadline.count()))});
  }

  void stop(std::chrono::milliseconds deadline) {
    if (std::exchange(stopped, true)) return;
    drain(deadline);
    const auto until = std::chrono::steady_clock::now() + deadline + step_grace;
    if (!open.wait_until_empty(until)) {
      spdlog::warn("event=cut requests={}", open.count());
      caf::anon_send(router, EndAllAtom::value);
      open.wait_until_empty(until + std::chrono::seconds(1));
    }
    for (const auto& actor : open.actors()) {
      caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    }
    open.wait_until_empty(until + std::chrono::seconds(2));
    const auto end = [](auto& actor) {
      if (actor) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
      actor = nullptr;
    };
    end(governor);
    end(registry);
    end(node);
    end(router);
    system.await_all_actors_done();  // the engines' threads are joined then
    if (services) services->router = nullptr;
  }

  ~Impl() { stop(std::chrono::milliseconds(0)); }
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(const ServerConfig& config, LoadProgress progress,
                                              const ModelSource& models, Ledger& ledger) {
  auto impl = std::make_unique<Impl>(config, ledger);
  if (auto started = impl->start(progress, models); !started) {
    return fail(std::move(started.error()));
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Frontend& Server::frontend() { return *impl_->frontend; }
void Server::drain() {
  // A little before the gateways cut their connections, so that clients still hear why.
  const auto deadline = impl_->config.drain_deadline;
  impl_->drain(deadline - std::min(deadline / 10, std::chrono::milliseconds(1000)));
}
void Server::stop(std::chrono::milliseconds deadline) { impl_->stop(deadline); }

}  // namespace plimsoll
