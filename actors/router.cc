#include "actors/router.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <exception>
#include <random>
#include <set>
#include <utility>

#include "actors/placements.h"
#include "actors/router_errors.h"
#include "cluster/prompt_shape.h"

namespace plimsoll {
namespace {

using cluster::Actions;
using cluster::EndCause;
using cluster::NodeState;
using cluster::Time;
using Outcome = cluster::Router::Outcome;

constexpr std::chrono::milliseconds tick_interval{100};
constexpr std::size_t most_tokens_at_once = 64;  // of one event, on the stack

Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

std::uint32_t ms_until(Time deadline) {
  const double ms = (deadline - now()).count() * 1000;
  return static_cast<std::uint32_t>(std::clamp(ms, 0.0, 4e9));
}

// Run ids are unique in a cluster: 24 random bits for this process, then a counter.
cluster::RunId first_run() {
  std::random_device device;
  return std::uint64_t{device() & 0xffffffU} << 40 | 1;
}

// What a stream needs to run again, and who waits for it: one of the two owners.
struct Work final : cluster::StreamData {
  SubmitStream request;  // its sequences are those it came with
  StreamSink owner;
  EmbedTokens embedding;
  EmbedSink embed_owner;
  Time deadline{0};

  const std::string& tenant() const {
    return embed_owner ? embedding.tenant.get() : request.tenant.get();
  }
};
using WorkPtr = std::shared_ptr<Work>;

SequenceEvent error_event(RequestId id, Error error) {
  SequenceEvent event;
  event.id = id;
  event.finish = FinishReason::error;
  event.error = std::move(error);
  return event;
}

struct RouterState {
  using Self = RouterActor::stateful_pointer<RouterState>;
  explicit RouterState(Self actor) : self(actor) {}

  // What the state machine does not need to know of a node.
  struct Peer {
    NodeActor actor;
    std::string address, version;
    std::vector<std::pair<std::string, EngineStats>> stats;
    NodeReport last;
    Time reported{0};
    double tokens_per_second = 0;
    std::uint64_t tokens = 0;
  };

  struct Held {
    WorkPtr work;
    Time until;
  };

  Self self;
  std::shared_ptr<Board> board;
  std::function<void(const std::string& tenant)> want_share;
  Time lease_patience{0};
  Account* queues = nullptr;
  std::optional<cluster::Router> core;
  std::map<std::string, Peer> peers;            // those that are not lost
  std::map<std::string, std::string> versions;  // that the models of this router have
  std::set<std::pair<std::string, std::string>> warned;
  Placements placements;
  CachePolicies cache_policies;
  std::map<std::string, std::deque<Held>> held;  // by tenant; each is an open request
  bool draining = false;
  bool stale = false;  // the board: heartbeats came since
  Actions actions;

  // ---- what comes in

  // Hands a stream to the state machine. What it is refused with, if it is.
  template <class Owner>
  std::optional<Error> admit(cluster::NewStream&& stream, const Owner& owner) {
    if (draining) return Error(ErrorCode::unavailable, "the server is stopping").retry_after(1000);
    const std::string tenant = stream.tenant;
    const std::string model = stream.model;
    const auto submitted = core->submit(std::move(stream), now(), actions);
    const auto& decision = submitted.decision;
    if (decision.requests.limit > 0 || decision.prompt_tokens.limit > 0 ||
        decision.generated_tokens.limit > 0) {
      self->send(owner,
                 RateLimits{decision.requests, decision.prompt_tokens, decision.generated_tokens});
    }
    if (submitted.full) {
      return Error(ErrorCode::resource_exhausted, "the router holds as many streams as it may")
          .with_reason("overloaded")
          .retry_after(1000);
    }
    if (submitted.no_node) {
      return Error(ErrorCode::unavailable, "no node that is ready has model '" + model + "'")
          .retry_after(1000);
    }
    if (decision.verdict == cluster::Verdict::admitted) return std::nullopt;
    return refusal_error(tenant, decision);
  }

  // As asked for, or the longest that the tenant may ask for.
  Time deadline_of(const TenantId& name, std::uint32_t asked_ms) const {
    const auto* tenant = core->quotas().find(name.get());
    const std::uint32_t most =
        tenant != nullptr ? cluster::caps_of(*tenant, core->quotas().tiers()).deadline_ms : 0;
    return now() + std::chrono::milliseconds(most > 0 ? std::min(asked_ms, most) : asked_ms);
  }

  void submit(SubmitStream& request, const StreamSink& owner) {
    auto work = std::make_shared<Work>();
    work->deadline = deadline_of(request.tenant, request.deadline_ms);
    work->request = std::move(request);
    work->owner = owner;
    take(work);
  }

  void embed(EmbedTokens& request, const EmbedSink& owner) {
    auto work = std::make_shared<Work>();
    work->deadline = deadline_of(request.tenant, request.deadline_ms);
    work->embedding = std::move(request);
    work->embed_owner = owner;
    take(work);
  }

  void take(const WorkPtr& work) {
    const auto& tenant = work->tenant();
    const auto waiting = held.find(tenant);
    if (waiting == held.end() && !lacks_share(tenant)) {
      begin(work);
      carry_out();
      return;
    }
    held[tenant].push_back({work, std::min(now() + lease_patience, work->deadline)});
    if (waiting == held.end()) want_share(tenant);
  }

  void begin(const WorkPtr& work) {
    auto stream = work->embed_owner ? stream_of(work->embedding) : stream_of(work->request);
    stream.deadline = work->deadline;
    stream.data = work;
    auto refused = work->embed_owner ? admit(std::move(stream), work->embed_owner)
                                     : admit(std::move(stream), work->owner);
    if (refused) refuse(*work, *refused);
  }

  cluster::NewStream stream_of(SubmitStream& request) const {
    cluster::NewStream stream;
    stream.tenant = request.tenant.get();
    stream.model = request.model;
    stream.prefix = cluster::prefix_hashes(stream.tenant, stream.model, request.prompt);
    stream.prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
    const auto* tenant = core->quotas().find(stream.tenant);
    if (tenant != nullptr && request.any_length) {
      auto usual = cluster::usual_generation(
          cluster::caps_of(*tenant, core->quotas().tiers()), stream.prompt_tokens,
          static_cast<std::uint32_t>(request.sequences.size()), request.max_new_tokens);
      for (const auto& spec : request.sequences) {
        usual = std::max(usual, static_cast<std::uint32_t>(spec.resumed.size()));
      }
      // With nothing left it is refused as it is.
      if (usual > 0) request.max_new_tokens = usual;
    }
    stream.generated_tokens = request.max_new_tokens;
    stream.repeats = cluster::repeats_endlessly(request.prompt);
    stream.kv = request.kv;
    for (auto& spec : request.sequences) {
      stream.sequences.push_back({spec.id.get(), spec.credit, std::move(spec.resumed)});
      spec.resumed.clear();
    }
    request.weight = tenant != nullptr ? cluster::weight_of(tenant->tier) : 1.0;
    request.cache_bytes = ~std::uint64_t{0};
    if (tenant == nullptr) return stream;
    const auto& quota = tenant->quota;
    const auto part = core->node_share(*tenant, stream.model);
    if (quota.cache_bytes > 0) {
      request.cache_bytes =
          static_cast<std::uint64_t>(part * static_cast<double>(quota.cache_bytes));
    }
    request.guaranteed_bytes =
        static_cast<std::uint64_t>(part * static_cast<double>(quota.guaranteed_bytes));
    request.worst_case = tenant->tier == cluster::Tier::guaranteed;
    if (tenant->tier == cluster::Tier::best_effort) request.capacity_class = CapacityClass::batch;
    return stream;
  }

  static cluster::NewStream stream_of(const EmbedTokens& request) {
    cluster::NewStream stream;
    stream.tenant = request.tenant.get();
    stream.model = request.model;
    for (const auto& input : request.inputs) {
      stream.prompt_tokens += static_cast<std::uint32_t>(input.size());
    }
    stream.sequences.push_back({request.id.get(), 0, {}});
    return stream;
  }

  void refuse(const Work& work, const Error& error) {
    if (work.embed_owner) {
      return self->send(work.embed_owner, EmbedResult{work.embedding.id, {}, error, {}});
    }
    std::vector<SequenceEvent> events;
    for (const auto& spec : work.request.sequences) events.push_back(error_event(spec.id, error));
    emit(work.owner, std::move(events));
  }

  void cancel(const CancelSequences& message) {
    for (const RequestId id : message.ids) {
      if (!cancel_held(id)) core->cancel(id.get(), now(), actions);
    }
    carry_out();
  }

  // ---- requests of tenants that this router has no share of at present

  bool lacks_share(const std::string& name) const {
    if (!want_share || draining) return false;
    const auto* tenant = core->quotas().find(name);
    return tenant != nullptr && !tenant->suspended && !core->quotas().has_share(name, now());
  }

  // Those whose wait is over: there is a share, or no more patience. In the order they came.
  void begin_held() {
    const Time at = now();
    for (auto& [tenant, queue] : held) {
      const bool waits = lacks_share(tenant);
      std::erase_if(queue, [&](const Held& each) {
        if (waits && at < each.until) return false;
        if (at < each.work->deadline) {
          begin(each.work);
        } else {
          refuse(*each.work, Error(ErrorCode::deadline_exceeded,
                                   "the request's deadline passed while it waited for a share of "
                                   "its tenant's quota"));
        }
        return true;
      });
    }
    std::erase_if(held, [](const auto& each) { return each.second.empty(); });
    carry_out();
  }

  bool cancel_held(RequestId id) {
    for (auto queue = held.begin(); queue != held.end(); ++queue) {
      const auto it = std::ranges::find_if(queue->second, [&](const Held& each) {
        const auto& work = *each.work;
        return work.embed_owner ? work.embedding.id == id : has_sequence(work, id);
      });
      if (it == queue->second.end()) continue;
      Work& work = *it->work;
      end_sequence(work, id, EndCause::cancelled, {});
      std::erase_if(work.request.sequences, [&](const auto& spec) { return spec.id == id; });
      if (work.request.sequences.empty()) queue->second.erase(it);
      if (queue->second.empty()) held.erase(queue);
      return true;
    }
    return false;
  }

  void end_all() {
    for (const auto& [tenant, queue] : std::exchange(held, {})) {
      for (const auto& each : queue) {
        refuse(*each.work, end_error(EndCause::stopped, {}));
      }
    }
    core->end_all(now(), actions);
    carry_out();
  }

  // ---- what the nodes send

  void receive(NodeEvents& message) {
    const Time at = now();
    StreamSink owner;  // of the events gathered so far
    std::vector<SequenceEvent> events;
    const auto flush = [&] {
      if (!events.empty()) self->send(owner, StreamEvents{std::move(events), message.charge});
      events = {};
    };
    for (auto& event : message.events) {
      const auto progress = note_tokens(event, at);
      if (!progress) continue;
      auto& work = static_cast<Work&>(*progress->data);
      if (work.owner != owner) {
        flush();
        owner = work.owner;
      }
      if (!event.prompt.empty()) spec_of(work, progress->id).prompt_logprobs = false;
      if (event.finish && !ends(event, at)) {
        event.finish.reset();
        event.error.reset();
      }
      event.id = RequestId(progress->id);
      if (event.finish || !event.tokens.empty() || !event.prompt.empty()) {
        events.push_back(std::move(event));
      }
    }
    flush();
    carry_out();
  }

  std::optional<cluster::Router::Progress> note_tokens(const SequenceEvent& event, Time at) {
    const cluster::RunId run = event.id.get();
    std::array<TokenId, most_tokens_at_once> ids;
    std::optional<cluster::Router::Progress> progress;
    std::size_t done = 0;
    do {
      const std::size_t count = std::min(event.tokens.size() - done, ids.size());
      for (std::size_t i = 0; i < count; ++i) ids[i] = event.tokens[done + i].id;
      progress = core->tokens(run, {ids.data(), count}, at);
      done += count;
    } while (progress && done < event.tokens.size());
    return progress;
  }

  // Whether the end of a run is the end of its sequence.
  bool ends(const SequenceEvent& event, Time at) {
    auto outcome = Outcome::done;
    if (event.error && event.error->code == ErrorCode::unavailable) outcome = Outcome::unavailable;
    if (event.error && event.error->code == ErrorCode::resource_exhausted) {
      outcome = Outcome::exhausted;
    }
    return core->finish(event.id.get(), outcome, event.usage.cached_tokens, at, actions).closed;
  }

  void receive(EmbedResult& result) {
    SequenceEvent event;
    event.id = result.id;
    if (result.error) event.error = *result.error;
    event.usage.cached_tokens = result.cached_tokens;
    const auto progress = core->tokens(result.id.get(), {}, now());
    if (!progress) return;
    const auto owner = static_cast<Work&>(*progress->data).embed_owner;
    if (ends(event, now())) {
      result.id = RequestId(progress->id);
      self->send(owner, std::move(result));
    }
    carry_out();
  }

  void receive(NodeReport& report) {
    const auto it = core->nodes().find(report.node);
    if (it == core->nodes().end() || it->second.epoch != report.epoch) return;
    cluster::Beat beat;
    beat.pressure = static_cast<cluster::Level>(report.pressure);
    for (const auto& [model, stats] : report.models) {
      beat.steps += stats.steps_total;
      beat.sequences += stats.waiting + stats.running;
      beat.waiting += stats.waiting;
    }
    beat.round_trip_s = report.round_trip_seconds;
    const Time at = now();
    core->beat(report.node, report.epoch, beat, at);
    if (report.draining) {
      // The node ends what is left at its own deadline; should it hang, its heartbeat tells.
      core->drain(report.node, Time(1e300), at, actions);
    }
    note_replicas(report, it->second.models);
    Peer& peer = peers.at(report.node);
    if (const double seconds = (at - peer.reported).count(); seconds >= 1.0) {
      peer.tokens_per_second =
          static_cast<double>(it->second.tokens - std::exchange(peer.tokens, it->second.tokens)) /
          seconds;
      peer.reported = at;
    }
    peer.stats = std::move(report.models);
    peer.last = std::move(report);
    place(it->first);
    stale = true;
    carry_out();
  }

  // Tells a node what it shall load and unload, once it has reported.
  void place(const std::string& name) {
    const Peer& peer = peers.at(name);
    const auto state = [this](const std::string& n) { return core->membership().find(n)->state; };
    if (draining || state(name) == NodeState::draining) return;
    if (peer.last.epoch != core->nodes().at(name).epoch) return;
    const auto is_served = [&](const PlacedModel& placed) {
      return std::ranges::any_of(core->nodes(), [&](const auto& entry) {
        const auto& models = entry.second.models;
        return Placements::runs_on(placed, entry.first) && state(entry.first) == NodeState::ready &&
               std::ranges::find(models, placed.model.name) != models.end();
      });
    };
    for (auto& order : placements.orders(peer.last, now(), is_served)) {
      std::visit([&](auto& message) { self->send(peer.actor, std::move(message)); }, order);
    }
  }

  void set_placements(const SetPlacements& message) {
    placements.set(message.models);
    for (const auto& [name, peer] : peers) place(name);
  }

  void set_cache_policies(const SetCachePolicies& message) {
    cache_policies = message.tenants;
    for (const auto& [name, peer] : peers) self->send(peer.actor, message);
  }

  caf::result<CacheAnswer> ask_cache(const AskNodeCache& message) {
    const auto peer = peers.find(message.node);
    if (peer != peers.end()) return self->delegate(peer->second.actor, message.call);
    return refusal(
        Error(ErrorCode::unavailable, "node '" + message.node + "' is not here at present")
            .retry_after(1000));
  }

  void set_model(const ModelEntry& entry) {
    if (entry.state == ModelState::gone) {
      versions.erase(entry.name);
    } else {
      versions[entry.name] = entry.version;
    }
    warned.clear();
    for (const auto& [name, peer] : peers) {
      const auto& node = core->nodes().at(name);
      if (peer.last.epoch == node.epoch) note_replicas(peer.last, node.models);
    }
    stale = true;
    carry_out();
  }

  // Of another version than the one that this router has the text side of.
  const std::string* other_version(const ReplicaReport& replica) const {
    const auto expected = versions.find(replica.model);
    const bool other = !replica.version.empty() && expected != versions.end() &&
                       expected->second != replica.version;
    return other ? &expected->second : nullptr;
  }

  ReplicaStatus status_of(const ReplicaReport& replica) const {
    if (!replica.error.empty()) return {replica.model, "failed", replica.error};
    if (replica.version.empty()) return {replica.model, "loading", {}};
    if (const auto* wanted = other_version(replica)) {
      return {replica.model, "failed",
              "the node has " + replica.version + ", this router " + *wanted};
    }
    return {replica.model, "ready", {}};
  }

  // A replica counts if it is of the version that this router has the text side of: any other would
  // not go on with a stream where the first one stopped.
  void note_replicas(const NodeReport& report, const std::vector<std::string>& before) {
    std::vector<std::string> ready;
    for (const auto& replica : report.replicas) {
      if (replica.version.empty()) continue;
      const auto* wanted = other_version(replica);
      if (wanted == nullptr) {
        ready.push_back(replica.model);
      } else if (warned.insert({report.node, replica.version}).second) {
        spdlog::warn("event=model_version_differs node={} model={} has={} wanted={}", report.node,
                     replica.model, replica.version, *wanted);
      }
    }
    if (ready != before) core->set_models(report.node, std::move(ready), now(), actions);
  }

  void up(const NodeUp& message, const NodeActor& actor) {
    const bool local = message.address == "local";
    if (!core->join(
            {message.node, message.epoch, message.weight, message.models, local, message.cordoned},
            now(), actions)) {
      return;
    }
    auto starts = std::exchange(actions, {});  // they go to the new actor
    for (auto& action : starts) {
      if (std::holds_alternative<cluster::NodeGone>(action)) carry_out(action);
    }
    peers[message.node] = {actor, message.address, message.version, {}, {}, now(), 0, 0};
    for (auto& action : starts) {
      if (!std::holds_alternative<cluster::NodeGone>(action)) carry_out(action);
    }
    self->monitor(actor);
    self->send(actor, SetCachePolicies{cache_policies});
    spdlog::info("event=node_ready node={} epoch={} address={} models={}", message.node,
                 message.epoch, message.address, message.models.size());
    publish();
  }

  void down(const caf::down_msg& message) {
    for (const auto& [name, peer] : peers) {
      if (peer.actor.address() != message.source) continue;
      core->lose(name, core->nodes().at(name).epoch, caf::to_string(message.reason), now(),
                 actions);
      break;
    }
    carry_out();
    publish();
  }

  void tick() {
    begin_held();
    core->tick(now(), actions);
    if (carry_out() || stale) publish();
  }

  // ---- what goes out

  // True if a node is gone.
  bool carry_out() {
    bool gone = false;
    // What is carried out can lead to more.
    while (!actions.empty()) {
      auto batch = std::exchange(actions, {});
      for (auto& action : batch) gone = carry_out(action) || gone;
    }
    return gone;
  }

  bool carry_out(cluster::Action& action) {
    std::visit([this](auto& x) { carry_out(x); }, action);
    return std::holds_alternative<cluster::NodeGone>(action);
  }

  void carry_out(cluster::StartRun& start) {
    const auto peer = peers.find(start.node);
    if (peer == peers.end()) return;
    const auto& work = static_cast<const Work&>(*start.data);
    if (work.embed_owner) {
      EmbedTokens request = work.embedding;
      request.id = RequestId(start.sequences.front().run);
      request.deadline_ms = ms_until(start.deadline);
      return self->send(peer->second.actor, std::move(request), NodeListener(self));
    }
    SubmitStream request = work.request;
    request.deadline_ms = ms_until(start.deadline);
    request.sequences.clear();
    for (auto& sequence : start.sequences) {
      SequenceSpec spec = spec_of(work, sequence.id);
      if (!sequence.emitted.empty()) {
        spdlog::info("event=replay request={} run={} node={} tokens={}", sequence.id, sequence.run,
                     start.node, sequence.emitted.size());
      }
      spec.id = RequestId(sequence.run);
      spec.resumed = std::move(sequence.emitted);
      spec.credit = sequence.credit;
      request.sequences.push_back(std::move(spec));
    }
    self->send(peer->second.actor, std::move(request), NodeListener(self));
  }

  void carry_out(const cluster::CancelRuns& cancel) {
    const auto peer = peers.find(cancel.node);
    if (peer == peers.end()) return;
    CancelSequences message;
    for (const auto run : cancel.runs) message.ids.emplace_back(run);
    self->send(peer->second.actor, std::move(message));
  }

  void carry_out(const cluster::CreditRun& credit) {
    const auto peer = peers.find(credit.node);
    if (peer == peers.end()) return;
    self->send(peer->second.actor, AddCredit{RequestId(credit.run), credit.tokens});
  }

  void carry_out(const cluster::EndSequence& end) {
    end_sequence(static_cast<const Work&>(*end.data), RequestId(end.id), end.cause, end.node);
  }

  void end_sequence(const Work& work, RequestId id, EndCause cause, const std::string& node) {
    Error error = end_error(cause, node);
    if (work.embed_owner) {
      return self->send(work.embed_owner, EmbedResult{id, {}, std::move(error), {}});
    }
    SequenceEvent event = error_event(id, std::move(error));
    if (cause == EndCause::cancelled) {
      event.finish = FinishReason::cancelled;
      event.error.reset();
    }
    emit(work.owner, {std::move(event)});
  }

  void carry_out(const cluster::NodeGone& gone) {
    spdlog::log(draining ? spdlog::level::info : spdlog::level::warn,
                "event=node_lost node={} epoch={} sequences={} reason=\"{}\"", gone.node,
                gone.epoch, gone.sequences, gone.reason);
    placements.forget(gone.node);
    const auto peer = peers.find(gone.node);
    if (peer == peers.end()) return;
    self->demonitor(peer->second.actor.address());
    // A proxy of a remote node tells it that its epoch is over.
    if (peer->second.address != "local") {
      self->send_exit(peer->second.actor, caf::exit_reason::unreachable);
    }
    peers.erase(peer);
  }

  void emit(const StreamSink& owner, std::vector<SequenceEvent> events) {
    auto charge = std::make_shared<Charge>(*queues, heap_bytes(events));
    self->send(owner, StreamEvents{std::move(events), std::move(charge)});
  }

  static bool has_sequence(const Work& work, RequestId id) {
    const auto& specs = work.request.sequences;
    return std::ranges::find(specs, id, &SequenceSpec::id) != specs.end();
  }
  static SequenceSpec& spec_of(Work& work, cluster::SequenceId id) {
    auto& specs = work.request.sequences;
    return *std::ranges::find(specs, RequestId(id), &SequenceSpec::id);
  }
  static const SequenceSpec& spec_of(const Work& work, cluster::SequenceId id) {
    return spec_of(const_cast<Work&>(work), id);
  }

  void drain(const Drain& message) {
    draining = true;
    core->stop_parking();
    for (auto& [name, peer] : peers) {
      if (peer.address == "local") self->send(peer.actor, message);
    }
    for (const auto& [name, node] : core->nodes()) {
      core->drain(name, Time(1e300), now(), actions);
    }
    begin_held();
    publish();
  }

  void publish() {
    stale = false;
    std::vector<NodeStatus> all;
    const Time at = now();
    for (const auto& [name, member] : core->membership().nodes()) {
      NodeStatus status;
      status.name = name;
      status.state = cluster::to_string(member.state);
      status.epoch = member.epoch;
      if (const auto it = peers.find(name); it != peers.end()) {
        const auto& node = core->nodes().at(name);
        const Peer& peer = it->second;
        status.models = peer.stats;
        for (const auto& replica : peer.last.replicas) {
          status.replicas.push_back(status_of(replica));
        }
        status.address = peer.address;
        status.version = peer.version;
        status.weight = node.weight;
        status.slow_factor = core->health().factor(name);
        if (const auto heard = core->health().last_heard(name)) {
          status.heartbeat_age_seconds = (at - *heard).count();
        }
        status.sequences = static_cast<std::uint32_t>(node.runs.size());
        status.tokens_per_second = peer.tokens_per_second;
        status.pressure = peer.last.pressure;
        status.memory_used_bytes = peer.last.memory_used_bytes;
        status.memory_limit_bytes = peer.last.memory_limit_bytes;
      }
      all.push_back(std::move(status));
    }
    board->set_nodes(std::move(all));
  }
};

RouterActor::behavior_type router(RouterState::Self self,
                                  const std::shared_ptr<RouterConfig>& config) {
  auto& state = self->state;
  state.board = config->board;
  state.queues = &config->ledger->account(Component::queues, "", shared_tenant);
  state.want_share = config->want_share;
  state.lease_patience = config->lease_patience;
  config->settings.leases = config->want_share != nullptr;
  state.core.emplace(config->settings, first_run());
  for (const auto& tenant : config->tenants) state.core->set_tenant(tenant, now());
  // A router that broke an invariant would leave every request waiting: end the process instead.
  self->set_exception_handler([](std::exception_ptr& thrown) -> caf::error {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
      spdlog::critical("event=router_failed error=\"{}\"", error.what());
    }
    spdlog::shutdown();
    std::abort();
  });
  self->set_down_handler([=](caf::down_msg& message) { self->state.down(message); });
  self->delayed_send(self, tick_interval, TickAtom::value);
  return {
      [=](NodeEvents& message) { self->state.receive(message); },
      [=](EmbedResult& result) { self->state.receive(result); },
      [=](NodeReport& report) { self->state.receive(report); },
      [=](SubmitStream& request, const StreamSink& owner) { self->state.submit(request, owner); },
      [=](EmbedTokens& request, const EmbedSink& owner) { self->state.embed(request, owner); },
      [=](const CancelSequences& message) { self->state.cancel(message); },
      [=](const AddCredit& credit) {
        self->state.core->add_credit(credit.id.get(), credit.tokens, self->state.actions);
        self->state.carry_out();
      },
      [=](const NodeUp& message, const NodeActor& actor) { self->state.up(message, actor); },
      [=](const ModelEntry& entry) { self->state.set_model(entry); },
      [=](const SetPlacements& message) { self->state.set_placements(message); },
      [=](const SetCachePolicies& message) { self->state.set_cache_policies(message); },
      [=](const AskNodeCache& message) { return self->state.ask_cache(message); },
      [=](const Drain& message) { self->state.drain(message); },
      [=](EndAllAtom) { self->state.end_all(); },
      [=](const InRouter& call) {
        call.run(*self->state.core, now(), self->state.actions);
        self->state.begin_held();
        self->state.publish();
      },
      [=](TickAtom) {
        self->state.tick();
        self->delayed_send(self, tick_interval, TickAtom::value);
      },
  };
}

}  // namespace

RouterActor spawn_router(caf::actor_system& system, RouterConfig config) {
  return system.spawn(router, std::make_shared<RouterConfig>(std::move(config)));
}

void introduce(const RouterActor& router, const NodeActor& node, NodeUp description) {
  caf::anon_send(router, std::move(description), node);
  caf::anon_send(node, StartAtom::value, NodeListener(router));
}

}  // namespace plimsoll
