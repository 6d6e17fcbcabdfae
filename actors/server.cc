#include "actors/server.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "actors/cache_on_disk.h"
#include "actors/cluster_administration.h"
#include "actors/fault_hooks.h"
#include "actors/frontend_impl.h"
#include "actors/gateway/listen_address.h"
#include "actors/governor.h"
#include "actors/model_loader.h"
#include "actors/network.h"
#include "actors/node.h"
#include "actors/node_secret.h"
#include "actors/placed_models.h"
#include "actors/quota_leases.h"
#include "actors/record_keeper.h"
#include "actors/registry.h"
#include "actors/router.h"
#include "engine/memory/headroom.h"

namespace plimsoll {
namespace {

constexpr int scheduler_threads = 2;
// What clients may have open at once, whoever they are; tenants have caps of their own.
constexpr std::uint32_t most_requests = 4096;
// A router that died keeps its name for a while.
constexpr auto name_patience = Directory::router_ttl + std::chrono::seconds(2);
// Of a node's ledger, at its routers.
constexpr std::size_t most_reported_rows = 256;
// After the drain's deadline, engines need a step to let go.
constexpr std::chrono::seconds step_grace{5};

std::uint64_t memory_limit_bytes(const ServerConfig& config) {
  const auto scopes = read_memory_scopes(config.memory_limit_bytes);
  return scopes ? tightest_limit_bytes(*scopes) : 0;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

struct Server::Impl {
  Impl(const ServerConfig& c, const ModelSource& s, Ledger& l) : config(c), source(s), ledger(l) {
    if (config.cluster.name.empty()) config.cluster.name = host_name();
    board = std::make_shared<Board>(config.cluster.name);
  }

  ServerConfig config;
  const ModelSource source;
  Ledger& ledger;
  std::shared_ptr<Board> board;
  std::shared_ptr<NodeInbox> inbox = std::make_shared<NodeInbox>();
  ModelLoader loader{
      config, source, ledger, inbox,
      [this](const std::string& model, const Shed& shed) { note_shed(model, shed); }};
  std::shared_ptr<storage::DiskCache> cache;
  std::optional<storage::TokenTier> tokens;  // where texts become tokens and there is a cache
  Metrics metrics;
  History history{ledger};
  OpenRequests open{most_requests};
  RequestMemory request_memory{
      request_memory_bytes(memory_limit_bytes(config), config.http.body_bytes)};
  std::string store;
  std::unique_ptr<Directory> directory;
  ActorSystemConfig system_config{scheduler_threads};
  std::optional<caf::actor_system> system;
  RouterActor router;
  RegistryActor registry;
  NodeActor node;
  FaultHooks faults;
  std::unique_ptr<Leak> leak;
  std::unique_ptr<Governor> governor;
  std::optional<Door> door;
  std::vector<LinkActor> links;
  std::optional<RequestServices> services;
  std::optional<ClusterFrontend> frontend;
  std::optional<PlacedModels> placed;
  std::optional<QuotaLeases> leases;
  std::optional<RecordKeeper> keeper;
  std::optional<ClusterAdministration> administration;
  std::optional<NodeSecret> secret;
  std::optional<HistoryThread> history_thread;
  const std::uint64_t epoch = static_cast<std::uint64_t>(std::time(nullptr));  // of the own node
  std::mutex links_mutex;
  std::set<std::string> serving_links;
  bool stopped = false;

  bool routes() const { return config.role != Role::node; }
  bool computes() const { return config.role != Role::router; }
  bool has_door() const { return routes() && !config.cluster.listen_host.empty(); }
  bool shared() const { return routes() && !config.cluster.etcd.empty(); }
  TlsFiles tls() const {
    return {config.cluster.ca_file, config.cluster.certificate, config.cluster.key};
  }

  // Errors end the process's start: what was started is taken down by ~Impl.
  Result<void> start(const LoadProgress& progress) {
    auto hooks = read_fault_hooks();
    if (!hooks) return fail(std::move(hooks.error()));
    faults = *hooks;
    if (has_door() || !config.cluster.join.empty()) {
      auto enabled = enable_network(system_config, tls(), 3 * config.cluster.node_timeout);
      if (!enabled) return enabled;
    }
    if (auto opened = open_directory(); !opened) return opened;
    system.emplace(system_config);
    registry = spawn_registry(*system, board);
    NodeConfig node_config;
    std::map<std::string, ClusterFrontend::Served> served;
    std::vector<ModelEntry> entries;
    std::vector<std::pair<ModelConfig, ModelEntry>> models;
    std::map<std::string, std::pair<ModelText, Charge>> texts;
    for (const auto& model : config.models) {
      const bool twice = std::ranges::count(config.models, model.name, &ModelConfig::name) > 1;
      if (twice) {
        return fail(ErrorCode::invalid_argument, "two models are named '" + model.name + "'");
      }
      auto entry = read_text(model, texts);
      if (!entry) return failed(model, std::move(entry.error()));
      models.emplace_back(model, std::move(*entry));
    }
    const auto plan = loader.plan(computes() ? models : decltype(models)());
    if (!plan) return fail(plan.error());
    if (config.on_plan) config.on_plan(*plan);
    if (auto opened = open_cache(); !opened) return opened;
    if (cache) node_config.cache = std::make_shared<NodeCache>(cache, config.cache);
    for (auto& [model, entry] : models) {
      if (computes()) {
        auto engine = loader.load_engine(model, entry, progress);
        if (!engine) return failed(model, std::move(engine.error()));
        node_config.engines.push_back(std::move(*engine));
      }
      // The engine may have made the context shorter.
      if (routes()) {
        served.emplace(model.name, loader.serve_text(entry, std::move(texts.at(model.name))));
      }
      entry.state = ModelState::ready;
      entries.push_back(std::move(entry));
    }
    if (computes()) start_node(std::move(node_config));
    if (routes()) {
      start_router(entries);
    } else if (auto joined = start_links(); !joined) {
      return joined;
    }
    // The actors' answers tell that all of this has arrived.
    caf::scoped_actor self(*system);
    for (auto& entry : entries) {
      if (auto put = call(self, registry, std::move(entry)); !put) return put;
    }
    if (node) {
      if (auto up = call(self, node, SetPressure{}); !up) return up;
    }
    if (router) {
      if (auto up = call(self, router, CancelSequences{}); !up) return up;
    }
    services.emplace(RequestServices{ledger, *board, metrics, history, open, request_memory,
                                     cache.get(), tokens ? &*tokens : nullptr, router,
                                     config.stream_window_tokens, config.request_deadline});
    if (!routes()) served.clear();
    frontend.emplace(*system, *services, std::move(served),
                     Access{directory.get(), config.is_open()});
    if (router) start_administration();
    history_thread.emplace(history_interval, [this] { add_to_history(); });
    return has_door() ? open_door() : Result<void>();
  }

  Result<void> open_cache() {
    if (!computes() || config.cache.directory.empty()) return {};
    auto opened = open_cache_on_disk(config.cache, ledger);
    if (!opened) return fail(std::move(opened.error()));
    cache = std::move(opened->cache);
    if (routes()) tokens.emplace(cache, opened->budget, ledger);
    loader.set_cache(cache, std::move(opened->budget));
    return {};
  }

  std::vector<NodeCacheAnswer> caches() {
    using Answers = std::vector<NodeCacheAnswer>;
    if (!administration) return {};
    return administration->ask_caches(LookAtCache(), "").value_or(Answers{});
  }

  void add_to_history() {
    const auto scopes = read_memory_scopes(config.memory_limit_bytes);
    history.add(take_sample(unix_seconds(), frontend->status(), frontend->memory(),
                            scopes.value_or(std::vector<MemoryScope>{}), caches()));
  }

  Result<std::shared_ptr<storage::StateStore>> open_store() {
    const auto& cluster = config.cluster;
    if (shared()) {
      store = "etcd";
      storage::EtcdOptions options;
      options.endpoints = cluster.etcd;
      options.ca_file = cluster.etcd_ca_file;
      options.certificate = cluster.etcd_certificate;
      options.key = cluster.etcd_key;
      options.prefix = cluster.etcd_prefix;
      return storage::open_etcd_store(options);
    }
    if (routes() && !cluster.state_directory.empty()) {
      store = "embedded";
      return storage::open_embedded_store(cluster.state_directory / "records");
    }
    store = "memory";
    return storage::make_memory_store();
  }

  Result<void> open_directory() {
    auto state = open_store();
    if (!state) return fail(std::move(state.error()));
    auto opened = Directory::open(std::move(*state), config.cluster.name);
    if (!opened) return fail(std::move(opened.error()));
    directory = std::move(*opened);
    if (auto named = take_name(); !named) return named;
    auto tenants = config.tenants;
    if (config.is_open()) tenants.emplace_back().name = local_tenant;
    for (const auto& tenant : tenants) {
      if (auto declared = directory->declare_tenant(tenant); !declared) return declared;
    }
    return {};
  }

  // Among the routers that share their records.
  Result<void> take_name() {
    if (!shared()) return {};
    const auto until = std::chrono::steady_clock::now() + name_patience;
    for (;;) {
      RouterRecord own;
      own.name = config.cluster.name;
      own.address = rpc_address();
      own.software = PLIMSOLL_VERSION;
      auto announced = directory->announce_router(own);
      const bool taken = !announced && announced.error().code == ErrorCode::already_exists;
      if (!taken || std::chrono::steady_clock::now() >= until) return announced;
      std::this_thread::sleep_for(std::chrono::milliseconds(250));
    }
  }

  std::string rpc_address() const {
    const auto& listen = config.rpc.listen;
    return listen.port == 0 ? "" : to_string(Address{listen.host, listen.port});
  }

  void start_administration() {
    placed.emplace(config, loader, *frontend, registry, router);
    RecordKeeperConfig keeping;
    keeping.router = router;
    keeping.name = config.cluster.name;
    keeping.address = rpc_address();
    keeping.shared = shared();
    keeping.on_placements = [this](const auto& placements) { placed->set(placements); };
    keeping.held_memory = [this] { return held_memory(); };
    if (leases) keeping.renew_leases = [this] { leases->renew(router); };
    keeper.emplace(*directory, std::move(keeping));
    RouterView self;
    self.name = config.cluster.name;
    self.address = rpc_address();
    administration.emplace(AdministrationServices{*directory, *keeper, *placed, *board, ledger,
                                                  router, std::move(self), store, shared()});
    frontend->set_administration(&*administration);
  }

  Result<void> failed(const ModelConfig& model, Error error) const {
    ModelEntry entry;
    entry.name = model.name;
    entry.path = model.path.string();
    entry.state = ModelState::failed;
    entry.reason = to_string(error);
    caf::anon_send(registry, std::move(entry));
    error.message = "model '" + model.name + "': " + error.message;
    return fail(std::move(error));
  }

  // Before the plan of the memory, which counts what the text side took.
  Result<ModelEntry> read_text(const ModelConfig& model,
                               std::map<std::string, std::pair<ModelText, Charge>>& texts) const {
    ModelEntry announced;
    announced.name = model.name;
    announced.path = model.path.string();
    caf::anon_send(registry, std::move(announced));
    auto entry = loader.probe(model);
    if (!entry || !routes()) return entry;
    auto text = loader.read_text(model, *entry);
    if (!text) return fail(std::move(text.error()));
    texts.emplace(model.name, std::move(*text));
    return entry;
  }

  void start_node(NodeConfig node_config) {
    node_config.name = config.cluster.name;
    node_config.epoch = epoch;
    node_config.inbox = inbox;
    node_config.ledger = &ledger;
    node_config.heartbeat = config.cluster.heartbeat;
    node_config.load = [this](const LoadModel& request) { return load_placed(request); };
    node = spawn_node(*system, std::move(node_config));
    if (faults.leak_bytes_per_second > 0) {
      leak = std::make_unique<Leak>(faults.leak_bytes_per_second);
    }
    if (!faults.governor) return;
    governor = std::make_unique<Governor>(GovernorConfig{
        .sample =
            process_sampler(config.memory_limit_bytes, [this] { return loader.planned_bytes(); }),
        .anonymous = anonymous_sampler(ledger),
        .board = board,
        .node = node});
  }

  void note_shed(const std::string& model, const Shed& shed) {
    static constexpr cluster::EventKind kinds[] = {
        cluster::EventKind::evict, cluster::EventKind::preempt, cluster::EventKind::cancel,
        cluster::EventKind::purge, cluster::EventKind::refuse};
    auto event = board->event(kinds[static_cast<int>(shed.kind)], shed.cause);
    if (shed.tenant != shared_tenant) event.tenant = shed.tenant.get();
    event.model = model;
    event.bytes = shed.bytes;
    event.count = shed.count;
    board->events().add(std::move(event));
  }

  // On a thread of the node's.
  Result<ServedEngine> load_placed(const LoadModel& request) {
    if (!config.find_model) return fail(ErrorCode::unsupported, "models are fixed at the start");
    auto model = config.find_model(request.source);
    if (!model) return fail(std::move(model.error()));
    model->name = request.name;
    auto entry = loader.probe(*model);
    if (!entry) return fail(std::move(entry.error()));
    if (!request.version.empty() && entry->version != request.version) {
      return fail(ErrorCode::failed_precondition,
                  "the file here is " + entry->version + ", the router has " + request.version);
    }
    return loader.load_engine(*model, *entry);
  }

  void start_router(const std::vector<ModelEntry>& entries) {
    RouterConfig router_config;
    router_config.tenants = directory->tenants();
    router_config.board = board;
    if (shared()) {
      leases.emplace(*directory, [this] { keeper->wake(); });
      router_config.want_share = [this](const std::string& tenant) { leases->want(tenant); };
    }
    router_config.ledger = &ledger;
    router_config.settings.health.heartbeat = config.cluster.heartbeat;
    router_config.settings.health.timeout = config.cluster.node_timeout;
    router_config.settings.tiers = config.tiers;
    router = spawn_router(*system, std::move(router_config));
    for (const auto& entry : entries) caf::anon_send(router, entry);
    if (node) {
      NodeUp description;
      description.node = config.cluster.name;
      description.epoch = epoch;
      description.weight = config.cluster.weight;
      description.version = PLIMSOLL_VERSION;
      for (const auto& entry : entries) description.models.push_back(entry.name);
      introduce(router, node, std::move(description));
    }
  }

  // Asked on the door's thread.
  Result<DoorConfig::Admission> admit(const wire::Hello& hello) {
    const auto now_s = static_cast<std::uint64_t>(std::time(nullptr));
    DoorConfig::Admission admission;
    if (!hello.secret.empty() && directory->check_node(hello.node, hello.secret)) {
      for (const auto& record : directory->nodes()) {
        if (record.name != hello.node) continue;
        admission.cordoned = record.cordoned;
        if (record.drain_until_ms == 0) continue;
        // It was drained to be started again, and here it is.
        if (auto over = directory->set_drain(hello.node, 0); !over) return fail(over.error());
      }
      return admission;
    }
    Result<std::string> fresh;
    if (config.is_open()) {
      fresh = directory->welcome_node(hello.node, now_s);
    } else if (!hello.join_token.empty()) {
      fresh = directory->admit_node(hello.node, hello.join_token, now_s);
    } else if (hello.secret.empty()) {
      fresh = fail(ErrorCode::permission_denied,
                   "a node that is new needs a join token: `plimsoll cluster join-token create`");
    } else {
      fresh = fail(ErrorCode::permission_denied,
                   "the node's secret is not valid here: it was removed, or belongs to another "
                   "cluster; give it a join token");
    }
    if (!fresh) return fail(std::move(fresh.error()));
    admission.secret = std::move(*fresh);
    return admission;
  }

  Result<void> open_door() {
    DoorConfig settings;
    settings.host = config.cluster.listen_host;
    settings.port = config.cluster.listen_port;
    settings.tls = !tls().empty();
    settings.router = config.cluster.name;
    settings.heartbeat = config.cluster.heartbeat;
    settings.router_actor = router;
    settings.ledger = &ledger;
    settings.board = board;
    settings.admit = [this](const wire::Hello& hello) { return admit(hello); };
    auto opened = plimsoll::open_door(*system, std::move(settings));
    if (!opened) return fail(std::move(opened.error()));
    door = std::move(*opened);
    return {};
  }

  Result<void> start_links() {
    const auto& state = config.cluster.state_directory;
    secret.emplace(state.empty() ? state : state / "node-secret");
    for (const auto& text : config.cluster.join) {
      auto address = parse_address(text);
      if (!address) return fail(std::move(address.error()));
      LinkConfig link;
      link.host = address->host;
      link.port = address->port;
      link.tls = !tls().empty();
      link.node = config.cluster.name;
      link.secret = [this] { return secret->get(); };
      link.join_token = config.cluster.join_token;
      link.weight = config.cluster.weight;
      link.node_actor = node;
      link.board = board;
      link.memory = [this] { return memory_for_routers(); };
      link.timeout = 3 * config.cluster.node_timeout;
      link.keep_secret = [this](const std::string& fresh) { secret->set(fresh); };
      link.on_state = [this, text](bool serving, const std::string&) { note_link(text, serving); };
      links.push_back(spawn_link(*system, std::move(link)));
    }
    return {};
  }

  // A node's memory is billed in equal parts by the routers that it reports to.
  cluster::HeldMemory held_memory() const {
    cluster::HeldMemory out;
    const auto nodes = frontend->node_memory();
    if (!nodes) return out;
    for (const auto& node : *nodes) {
      for (const auto& row : node.report->rows) {
        const double bytes = static_cast<double>(row.resident_bytes) / node.routers;
        if (row.component == Component::weights) {
          out.weights_bytes[row.model.substr(0, row.model.find('@'))] += bytes;
        } else if (row.component == Component::kv || row.component == Component::prefix_cache) {
          if (row.tenant != shared_tenant.get()) out.tenant_bytes[row.tenant] += bytes;
        }
      }
    }
    return out;
  }

  std::shared_ptr<const MemoryReport> memory_for_routers() const {
    auto report = frontend->memory();
    if (!report) return nullptr;
    report->rows = largest_rows(std::move(report->rows), most_reported_rows);
    return std::make_shared<const MemoryReport>(std::move(*report));
  }

  // A node's board shows itself: ready while a router takes its work.
  void note_link(const std::string& address, bool serving) {
    const std::lock_guard lock(links_mutex);
    serving ? (void)serving_links.insert(address) : (void)serving_links.erase(address);
    NodeStatus status;
    status.name = config.cluster.name;
    status.state = serving_links.empty() ? "joining" : "ready";
    status.address = "local";
    status.version = PLIMSOLL_VERSION;
    board->set_nodes({std::move(status)});
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
    if (administration) administration->stop();
    const Drain message{static_cast<std::uint32_t>(std::max<std::int64_t>(0, deadline.count()))};
    if (router) {
      caf::anon_send(router, message);
    } else if (node) {
      caf::anon_send(node, message);
    }
  }

  // Until the engines hold nothing: what they had has ended, or goes on elsewhere.
  void wait_until_idle(std::chrono::steady_clock::time_point until) {
    caf::scoped_actor self(*system);
    while (std::chrono::steady_clock::now() < until) {
      bool idle = false;
      self->request(node, std::chrono::seconds(1), IdleAtom::value)
          .receive([&](bool answer) { idle = answer; }, [](const caf::error&) {});
      if (idle) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    // The last events are on their way.
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }

  void stop(std::chrono::milliseconds deadline) {
    if (std::exchange(stopped, true) || !system) return;
    history_thread.reset();
    drain(deadline);
    const auto until = std::chrono::steady_clock::now() + deadline + step_grace;
    if (!routes() && node) wait_until_idle(until);
    if (!open.wait_until_empty(until)) {
      spdlog::warn("event=cut requests={}", open.count());
      if (router) caf::anon_send(router, EndAllAtom::value);
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
    governor.reset();  // it may tell the node
    end(node);
    for (auto& link : links) end_link(std::exchange(link, nullptr));
    links.clear();
    if (door) close_door(*system, *std::exchange(door, std::nullopt));
    if (placed) placed->stop();
    if (keeper) keeper->stop();
    end(registry);
    end(router);
    system->await_all_actors_done();  // the engines' threads are joined then
    if (services) services->router = nullptr;
  }

  ~Impl() { stop(std::chrono::milliseconds(0)); }
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(const ServerConfig& config, LoadProgress progress,
                                              const ModelSource& models, Ledger& ledger) {
  auto impl = std::make_unique<Impl>(config, models, ledger);
  if (auto started = impl->start(progress); !started) {
    return fail(std::move(started.error()));
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Frontend& Server::frontend() { return *impl_->frontend; }
std::uint16_t Server::cluster_port() const { return impl_->door ? impl_->door->port : 0; }
void Server::drain() {
  // A little before the gateways cut their connections, so that clients still hear why.
  const auto deadline = impl_->config.drain_deadline;
  impl_->drain(deadline - std::min(deadline / 10, std::chrono::milliseconds(1000)));
}
void Server::stop(std::chrono::milliseconds deadline) { impl_->stop(deadline); }

}  // namespace plimsoll
