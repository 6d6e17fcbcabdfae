#include "actors/frontend_impl.h"

#include <algorithm>
#include <ctime>
#include <random>
#include <utility>

namespace plimsoll {
namespace {

std::uint64_t random_bits() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::uint64_t heap_bytes(const GenerateRequest& request) {
  const auto choices = std::clamp(request.choices, 1U, RequestLimits::choices);
  std::uint64_t bytes = open_request_bytes + choices * open_choice_bytes;
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    for (const auto& m : *messages) bytes += sizeof(m) + m.role.capacity() + m.content.capacity();
  } else if (const auto* text = std::get_if<std::string>(&request.input)) {
    bytes += text->capacity();
  } else {
    bytes += std::get<std::vector<TokenId>>(request.input).capacity() * sizeof(TokenId);
  }
  for (const auto& stop : request.stop) bytes += sizeof(stop) + stop.capacity();
  bytes += 3 * request.id.capacity();  // it is a name here, and an open request's
  for (const auto& received : request.resumed) {
    bytes += sizeof(received) + received.tokens.capacity() * sizeof(TokenId);
  }
  return bytes + request.sampling.logit_bias.capacity() * sizeof(std::pair<TokenId, float>);
}

std::uint64_t heap_bytes(const EmbedRequest& request) {
  std::uint64_t bytes = open_request_bytes;
  for (const auto& input : request.inputs) {
    bytes += sizeof(input);
    if (const auto* text = std::get_if<std::string>(&input)) {
      bytes += text->capacity();
    } else {
      bytes += std::get<std::vector<TokenId>>(input).capacity() * sizeof(TokenId);
    }
  }
  return bytes;
}

class StreamHandle final : public GenerationStream {
 public:
  StreamHandle(StreamActor actor, std::uint32_t window)
      : actor_(std::move(actor)), enough_(std::max(1U, window / 4)) {}
  void cancel() override { caf::anon_send(actor_, CancelAtom::value); }
  // In quarters of the window: a message for each token would cost more than the token.
  void consumed(std::uint32_t tokens) override {
    if (unsaid_.fetch_add(tokens) + tokens < enough_) return;
    if (const auto all = unsaid_.exchange(0); all > 0) {
      caf::anon_send(actor_, ConsumedAtom::value, all);
    }
  }

 private:
  StreamActor actor_;
  const std::uint32_t enough_;
  std::atomic<std::uint32_t> unsaid_{0};
};

}  // namespace

ClusterFrontend::ClusterFrontend(caf::actor_system& system, RequestServices& services,
                                 std::map<std::string, Served> models, Access access)
    : system_(system),
      services_(services),
      access_(access),
      started_(std::chrono::steady_clock::now()),
      // Unique within a cluster: 24 random bits for this process, then a counter.
      next_id_((random_bits() << 40) | 1) {
  for (auto& [name, served] : models) add_model(name, std::move(served));
}

Result<Caller> ClusterFrontend::authenticate(std::string_view api_key) const {
  if (access_.directory != nullptr && !api_key.empty()) {
    const auto now_s = static_cast<std::uint64_t>(std::time(nullptr));
    if (const auto tenant = access_.directory->find_key(api_key, now_s)) {
      return Caller{TenantId(tenant->name), tenant->is_operator,
                    tenant->quota.guaranteed_bytes > 0};
    }
  }
  if (access_.open) return Caller{TenantId(local_tenant), true};
  return fail(ErrorCode::unauthenticated,
              api_key.empty() ? "an API key is needed" : "the API key is not known");
}

Result<void> ClusterFrontend::admits(const Caller& caller) const {
  if (services_.open.closed()) {
    return fail(Error(ErrorCode::unavailable, "the server is stopping").retry_after(1000));
  }
  auto& board = services_.board;
  if (board.pressure() != PressureLevel::red || caller.has_guarantee) return {};
  auto refused = board.event(cluster::EventKind::refuse, "this process is short of memory");
  refused.tenant = caller.tenant.get();
  board.events().add(std::move(refused));
  return fail(Error(ErrorCode::resource_exhausted, "the server is short of memory")
                  .with_reason("memory_pressure")
                  .retry_after(1000));
}

RequestId ClusterFrontend::next_id(std::uint32_t choices) {
  return RequestId(next_id_.fetch_add(std::clamp(choices, 1U, RequestLimits::choices)));
}

bool ClusterFrontend::stores_nothing(const TenantId& tenant) const {
  const auto record =
      access_.directory != nullptr ? access_.directory->tenant(tenant.get()) : std::nullopt;
  return record && record->cache.no_store;
}

void ClusterFrontend::add_model(const std::string& name, Served served) {
  const std::lock_guard lock(models_mutex_);
  models_[name] = std::make_shared<const Served>(std::move(served));
}

void ClusterFrontend::remove_model(const std::string& name) {
  const std::lock_guard lock(models_mutex_);
  models_.erase(name);
}

Result<std::shared_ptr<const ClusterFrontend::Served>> ClusterFrontend::find(
    const std::string& model, ModelKind kind) const {
  const std::lock_guard lock(models_mutex_);
  const auto it = models_.find(model);
  if (it == models_.end()) {
    std::string names;
    for (const auto& [name, unused] : models_) names += (names.empty() ? "" : ", ") + name;
    return fail(Error(ErrorCode::not_found,
                      "no model named '" + model.substr(0, 128) + "' is served; there is: " + names)
                    .with_param("model")
                    .with_reason("model_not_found"));
  }
  if (it->second->kind != kind) {
    return fail(Error(ErrorCode::invalid_argument,
                      "model '" + model +
                          (kind == ModelKind::causal ? "' makes embeddings, not text"
                                                     : "' makes text, not embeddings"))
                    .with_param("model"));
  }
  return it->second;
}

std::shared_ptr<GenerationStream> ClusterFrontend::generate(
    const Caller& caller, GenerateRequest request, std::shared_ptr<GenerationListener> listener) {
  auto open = std::make_unique<OpenGeneration>();
  open->services = &services_;
  open->id = next_id(request.choices);
  open->caller = caller;
  open->listener = std::move(listener);
  open->arrived = std::chrono::steady_clock::now();
  if (!request.seed) request.seed = random_bits();
  request.no_store = request.no_store || stores_nothing(caller.tenant);
  const auto served = find(request.model, ModelKind::causal);
  std::string name;
  if (!request.id.empty()) name = caller.tenant.get() + '/' + request.id;
  // A client that goes on with an answer has lost its hold on what it had here.
  if (!name.empty() && !request.resumed.empty()) {
    if (const auto before = services_.open.find(name)) {
      caf::anon_send(caf::actor_cast<StreamActor>(before), CancelAtom::value);
    }
  }
  if (!served) {
    open->refusal = served.error();
  } else if (auto admitted = admits(caller); !admitted) {
    open->refusal = std::move(admitted.error());
  } else {
    const auto& version = (*served)->version;
    const auto endpoint = endpoint_of(request);
    Account& account =
        services_.ledger.account(Component::requests, version, caller.tenant, endpoint);
    RequestLease memory(services_.memory, caller.tenant, account);
    const std::uint64_t bytes = heap_bytes(request) + (*served)->text->encode_bytes(request);
    if (!memory.hold(bytes)) {
      open->refusal = request_memory_taken(services_.memory, bytes);
    } else if (auto entered = services_.open.enter(open->id.get(), name); !entered) {
      open->refusal = std::move(entered.error());
    } else {
      open->memory = std::move(memory);
      open->generated = Charge(account, 0);
      open->model = (*served)->text;
      open->request = std::move(request);
    }
  }
  return std::make_shared<StreamHandle>(spawn_stream(system_, std::move(open)),
                                        services_.window_tokens);
}

std::function<void()> ClusterFrontend::embed(const Caller& caller, EmbedRequest request,
                                             EmbedCallback callback) {
  auto open = std::make_unique<OpenEmbedding>();
  open->services = &services_;
  open->id = next_id(1);
  open->caller = caller;
  open->callback = std::move(callback);
  request.no_store = request.no_store || stores_nothing(caller.tenant);
  const auto served = find(request.model, ModelKind::embedding);
  if (!served) {
    open->refusal = served.error();
  } else if (auto admitted = admits(caller); !admitted) {
    open->refusal = std::move(admitted.error());
  } else {
    RequestLease memory(services_.memory, caller.tenant,
                        services_.ledger.account(Component::requests, (*served)->version,
                                                 caller.tenant, Endpoint::embeddings));
    const std::uint64_t bytes = heap_bytes(request) + (*served)->text->encode_bytes(request);
    if (!memory.hold(bytes)) {
      open->refusal = request_memory_taken(services_.memory, bytes);
    } else if (auto entered = services_.open.enter(open->id.get()); !entered) {
      open->refusal = std::move(entered.error());
    } else {
      open->memory = std::move(memory);
      open->model = (*served)->text;
      open->request = std::move(request);
    }
  }
  auto actor = spawn_embedding(system_, std::move(open));
  return [actor = std::move(actor)] { caf::anon_send(actor, CancelAtom::value); };
}

std::vector<ModelCard> ClusterFrontend::models() const { return services_.board.models(); }

bool ClusterFrontend::ready() const {
  if (services_.open.closed()) return false;
  return std::ranges::any_of(services_.board.nodes(),
                             [](const NodeStatus& node) { return node.state == "ready"; });
}

ClusterStatus ClusterFrontend::status() const {
  ClusterStatus status;
  status.version = PLIMSOLL_VERSION;
  status.uptime_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  status.pressure = services_.board.pressure();
  status.nodes = services_.board.nodes();
  return status;
}

Result<MemoryReport> ClusterFrontend::memory() const {
  const std::lock_guard lock(report_mutex_);
  auto report = make_memory_report(services_.ledger);
  if (report) report->phases = services_.board.phases();
  return report;
}

Result<std::vector<NodeMemory>> ClusterFrontend::node_memory() const {
  auto own = memory();
  if (!own) return fail(std::move(own.error()));
  auto all = services_.board.memory();
  all.insert(all.begin(),
             {services_.board.name(), 0, 1, std::make_shared<const MemoryReport>(std::move(*own))});
  return all;
}

std::string ClusterFrontend::metrics() const {
  return services_.metrics.text({status(), services_.open.count(), memory(),
                                 read_memory_scopes(0).value_or(std::vector<MemoryScope>{}),
                                 services_.board, services_.cache});
}

ConsoleView ClusterFrontend::console(const ConsoleQuery& query) const {
  constexpr std::size_t most_events = 500;
  return {services_.history.after(query.after_point),
          services_.board.events().find({.after = query.after_event, .limit = most_events})};
}

}  // namespace plimsoll
