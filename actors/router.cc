#include "actors/router.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <unordered_map>
#include <utility>

#include "cluster/membership.h"
#include "cluster/placement.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;
using cluster::NodeEvent;
using cluster::NodeState;

// A sequence whose nodes keep dying may be what kills them.
constexpr int most_replays = 2;
// Engines keep the deadlines; this is for a node that does not answer.
constexpr std::chrono::seconds deadline_grace{2};
constexpr std::chrono::seconds sweep_interval{1};

struct Node {
  NodeActor actor;
  std::uint64_t epoch = 0;
  double weight = 1;
  std::vector<std::string> models;
  std::vector<std::pair<std::string, EngineStats>> stats;
  std::uint32_t load = 0;  // sequences and embedding requests that it holds
};

struct Sequence {
  SequenceSpec spec;
  std::string node;
  std::vector<TokenId> emitted;
  std::uint64_t granted = 0;  // credit, in tokens, since the beginning
  int replays = 0;
  bool cancelled = false;
};

struct Stream {
  SubmitStream request;  // without its sequences
  StreamSink owner;
  Clock::time_point deadline;
  std::unordered_map<RequestId, Sequence> open;
};

struct Embedding {
  EmbedSink owner;
  TenantId tenant;
  std::string node;
  Clock::time_point deadline;
};

struct RouterState {
  using Self = RouterActor::stateful_pointer<RouterState>;
  explicit RouterState(Self actor) : self(actor) {}

  Self self;
  std::shared_ptr<Board> board;
  Account* queues = nullptr;
  std::optional<cluster::Admission> admission;
  cluster::Membership membership;
  std::map<std::string, Node> nodes;  // those that are not lost
  bool draining = false;
  std::unordered_map<RequestId, Stream> streams;       // by the id of the first sequence
  std::unordered_map<RequestId, RequestId> stream_of;  // sequence -> stream
  std::unordered_map<RequestId, Embedding> embeddings;

  // ---- what comes in

  std::optional<Error> admit(const TenantId& tenant, std::uint32_t sequences) {
    if (draining) return Error(ErrorCode::unavailable, "the server is stopping").retry_after(1000);
    using Verdict = cluster::AdmissionDecision::Verdict;
    const auto now = std::chrono::duration<double>(Clock::now().time_since_epoch());
    const auto decision = admission->admit(tenant.get(), sequences, now);
    switch (decision.verdict) {
      case Verdict::admitted: return std::nullopt;
      case Verdict::unknown_tenant:
        return Error(ErrorCode::permission_denied, "no tenant named '" + tenant.get() + "'");
      case Verdict::rate:
        return Error(ErrorCode::resource_exhausted,
                     "tenant '" + tenant.get() + "' has used up its rate of requests")
            .with_reason("tenant_rate")
            .retry_after(static_cast<std::uint32_t>(decision.retry_after.count()));
      case Verdict::sequences: break;
    }
    const auto limit = admission->limit(tenant.get());
    return Error(ErrorCode::resource_exhausted,
                 fmt::format("tenant '{}' may have {} sequences waiting and running: it has {} and "
                             "asks for {} more",
                             tenant.get(), limit, admission->sequences(tenant.get()), sequences))
        .with_reason("tenant_sequences")
        .retry_after(sequences > limit ? 0 : 1000);
  }

  // A ready node that has the model, other than `except`.
  Result<std::string> pick(const TenantId& tenant, const std::string& model,
                           const std::string& except = {}) const {
    std::vector<cluster::PlacementNode> candidates;
    for (const auto& [name, node] : nodes) {
      const auto* member = membership.find(name);
      const bool has = std::ranges::find(node.models, model) != node.models.end();
      if (name == except || member->state != NodeState::ready || !has) continue;
      candidates.push_back({name, node.weight, node.load});
    }
    const auto chosen = cluster::place(tenant.get(), candidates);
    if (chosen) return std::string(candidates[*chosen].name);
    return fail(Error(ErrorCode::unavailable, "no node that is ready has model '" + model + "'")
                    .retry_after(1000));
  }

  void submit(SubmitStream& request, const StreamSink& owner) {
    const auto count = static_cast<std::uint32_t>(request.sequences.size());
    auto refusal = admit(request.tenant, count);
    Result<std::string> node;
    if (!refusal) {
      node = pick(request.tenant, request.model);
      if (!node) {
        admission->release(request.tenant.get(), count);
        refusal = std::move(node.error());
      }
    }
    if (refusal) {
      std::vector<SequenceEvent> events;
      for (const auto& spec : request.sequences) events.push_back(error_event(spec.id, *refusal));
      return emit(owner, std::move(events));
    }
    const RequestId id = request.sequences.front().id;
    Stream& stream = streams[id];
    stream.owner = owner;
    stream.deadline = Clock::now() + std::chrono::milliseconds(request.deadline_ms);
    for (const auto& spec : request.sequences) {
      stream_of[spec.id] = id;
      stream.open.emplace(spec.id, Sequence{spec, *node, {}, spec.credit, 0, false});
    }
    nodes.at(*node).load += count;
    self->send(nodes.at(*node).actor, request, NodeListener(self));
    request.sequences.clear();
    stream.request = std::move(request);
  }

  void embed(EmbedTokens& request, const EmbedSink& owner) {
    const RequestId id = request.id;
    const auto refuse = [&](Error error) {
      self->send(owner, EmbedResult{id, {}, std::move(error), {}});
    };
    if (auto refusal = admit(request.tenant, 1)) return refuse(std::move(*refusal));
    auto node = pick(request.tenant, request.model);
    if (!node) {
      admission->release(request.tenant.get(), 1);
      return refuse(std::move(node.error()));
    }
    const auto deadline = Clock::now() + std::chrono::milliseconds(request.deadline_ms);
    embeddings[id] = {owner, request.tenant, *node, deadline};
    ++nodes.at(*node).load;
    self->send(nodes.at(*node).actor, std::move(request), NodeListener(self));
  }

  Sequence* find(RequestId id) {
    const auto it = stream_of.find(id);
    return it == stream_of.end() ? nullptr : &streams.at(it->second).open.at(id);
  }

  void add_credit(const AddCredit& credit) {
    if (auto* sequence = find(credit.id)) {
      sequence->granted += credit.tokens;
      self->send(nodes.at(sequence->node).actor, credit);
    }
  }

  void cancel(const CancelSequences& message) {
    std::map<std::string, CancelSequences> by_node;
    for (const RequestId id : message.ids) {
      if (auto* sequence = find(id)) {
        sequence->cancelled = true;
        by_node[sequence->node].ids.push_back(id);
      } else if (const auto it = embeddings.find(id); it != embeddings.end()) {
        by_node[it->second.node].ids.push_back(id);
      }
    }
    for (auto& [name, ids] : by_node) self->send(nodes.at(name).actor, std::move(ids));
  }

  // ---- what the nodes send

  // Whether this node, in this epoch, is the one that is known.
  bool current(const std::string& name, std::uint64_t epoch) const {
    const auto it = nodes.find(name);
    return it != nodes.end() && it->second.epoch == epoch;
  }

  void receive(NodeEvents& message) {
    message.charge.reset();
    if (!current(message.node, message.epoch)) return;
    std::map<RequestId, std::vector<SequenceEvent>> by_stream;
    for (auto& event : message.events) {
      auto* sequence = find(event.id);
      if (sequence == nullptr || sequence->node != message.node) continue;
      const RequestId stream = stream_of.at(event.id);
      for (const auto& token : event.tokens) sequence->emitted.push_back(token.id);
      if (!event.prompt.empty()) sequence->spec.prompt_logprobs = false;
      if (event.finish) {
        // A node that drains hands its sequences on.
        const bool unavailable = event.error && event.error->code == ErrorCode::unavailable;
        if (unavailable && replay(streams.at(stream), event.id)) {
          event.finish.reset();
          event.error.reset();
        }
      }
      by_stream[stream].push_back(std::move(event));
    }
    for (auto& [id, events] : by_stream) {
      const auto owner = streams.at(id).owner;
      for (const auto& event : events) {
        if (event.finish) close(event.id);
      }
      emit(owner, std::move(events));
    }
  }

  void receive(EmbedResult& result) {
    const auto it = embeddings.find(result.id);
    if (it == embeddings.end()) return;
    const auto owner = it->second.owner;
    close(it);
    self->send(owner, std::move(result));
  }

  void receive(NodeReport& report) {
    if (!current(report.node, report.epoch)) return;
    nodes.at(report.node).stats = std::move(report.models);
    publish();
  }

  void up(const NodeUp& message, const NodeActor& actor) {
    // A node that came back before its old self was missed: what that one held is lost.
    if (const auto* member = membership.find(message.node);
        member != nullptr && message.epoch > member->epoch) {
      lose(message.node, "it came back with a new epoch");
    }
    if (!membership.apply(message.node, message.epoch, NodeEvent::join)) return;
    membership.apply(message.node, message.epoch, NodeEvent::ready);
    nodes[message.node] = {actor, message.epoch, message.weight, message.models, {}, 0};
    self->monitor(actor);
    spdlog::info("event=node_ready node={} epoch={} models={}", message.node, message.epoch,
                 message.models.size());
    publish();
  }

  void down(const caf::down_msg& message) {
    for (const auto& [name, node] : nodes) {
      if (node.actor.address() == message.source) {
        return lose(std::string(name), caf::to_string(message.reason));
      }
    }
  }

  void lose(const std::string& name, const std::string& reason) {
    const auto node = nodes.find(name);
    if (node == nodes.end()) return;
    spdlog::log(draining ? spdlog::level::info : spdlog::level::warn,
                "event=node_lost node={} epoch={} sequences={} reason=\"{}\"", name,
                node->second.epoch, node->second.load, reason);
    membership.apply(name, node->second.epoch, NodeEvent::lose);
    std::vector<RequestId> stranded;
    for (const auto& [id, stream] : stream_of) {
      if (streams.at(stream).open.at(id).node == name) stranded.push_back(id);
    }
    const Error error =
        Error(ErrorCode::unavailable, "node '" + name + "' was lost").retry_after(1000);
    for (const RequestId id : stranded) {
      Stream& stream = streams.at(stream_of.at(id));
      if (replay(stream, id)) continue;
      SequenceEvent event = error_event(id, error);
      if (stream.open.at(id).cancelled) {
        event.finish = FinishReason::cancelled;
        event.error.reset();
      }
      const auto owner = stream.owner;
      close(id);
      emit(owner, {std::move(event)});
    }
    for (auto it = embeddings.begin(); it != embeddings.end();) {
      const auto here = it++;
      if (here->second.node != name) continue;
      const auto owner = here->second.owner;
      const RequestId id = here->first;
      close(here);
      self->send(owner, EmbedResult{id, {}, error, {}});
    }
    nodes.erase(name);
    publish();
  }

  // Goes on with a sequence on another node, behind the tokens that its client has. False if there
  // is none, or if it was tried too often.
  bool replay(Stream& stream, RequestId id) {
    Sequence& sequence = stream.open.at(id);
    if (draining || sequence.cancelled || sequence.replays >= most_replays) return false;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(stream.deadline - Clock::now());
    auto node = pick(stream.request.tenant, stream.request.model, sequence.node);
    if (!node || left.count() <= 0) return false;
    ++sequence.replays;
    spdlog::info("event=replay request={} from={} to={} tokens={}", id.get(), sequence.node, *node,
                 sequence.emitted.size());
    SubmitStream request = stream.request;
    request.deadline_ms = static_cast<std::uint32_t>(left.count());
    SequenceSpec spec = sequence.spec;
    spec.resumed.insert(spec.resumed.end(), sequence.emitted.begin(), sequence.emitted.end());
    const auto unused =
        sequence.granted - std::min<std::uint64_t>(sequence.granted, sequence.emitted.size());
    spec.credit = static_cast<std::uint32_t>(std::min<std::uint64_t>(unused, ~0U));
    request.sequences.push_back(std::move(spec));
    --nodes.at(sequence.node).load;
    ++nodes.at(*node).load;
    sequence.node = *node;
    self->send(nodes.at(*node).actor, std::move(request), NodeListener(self));
    return true;
  }

  // ---- ends

  static SequenceEvent error_event(RequestId id, const Error& error) {
    SequenceEvent event;
    event.id = id;
    event.finish = FinishReason::error;
    event.error = error;
    return event;
  }

  void emit(const StreamSink& owner, std::vector<SequenceEvent> events) {
    auto charge = std::make_shared<Charge>(*queues, heap_bytes(events));
    self->send(owner, StreamEvents{std::move(events), std::move(charge)});
  }

  void close(RequestId id) {
    const auto it = streams.find(stream_of.at(id));
    Stream& stream = it->second;
    admission->release(stream.request.tenant.get(), 1);
    --nodes.at(stream.open.at(id).node).load;
    stream.open.erase(id);
    stream_of.erase(id);
    if (stream.open.empty()) streams.erase(it);
  }

  void close(std::unordered_map<RequestId, Embedding>::iterator it) {
    admission->release(it->second.tenant.get(), 1);
    --nodes.at(it->second.node).load;
    embeddings.erase(it);
  }

  // Ends everything whose deadline is before `now`, at the node and for its owner.
  void end_overdue(Clock::time_point now, const Error& error) {
    std::vector<RequestId> overdue;
    CancelSequences cancelled;
    for (const auto& [id, stream] : streams) {
      if (stream.deadline + deadline_grace < now) overdue.push_back(id);
    }
    for (const RequestId id : overdue) {
      const auto owner = streams.at(id).owner;
      std::vector<SequenceEvent> events;
      for (const auto& [sequence, unused] : streams.at(id).open) {
        events.push_back(error_event(sequence, error));
        cancelled.ids.push_back(sequence);
      }
      cancel(cancelled);
      cancelled.ids.clear();
      for (const auto& event : events) close(event.id);
      emit(owner, std::move(events));
    }
    for (auto it = embeddings.begin(); it != embeddings.end();) {
      const auto here = it++;
      if (here->second.deadline + deadline_grace >= now) continue;
      const auto owner = here->second.owner;
      const RequestId id = here->first;
      cancel({{id}});
      close(here);
      self->send(owner, EmbedResult{id, {}, error, {}});
    }
  }

  void drain(const Drain& message) {
    draining = true;
    for (const auto& [name, node] : nodes) {
      membership.apply(name, node.epoch, NodeEvent::drain);
      self->send(node.actor, message);
    }
    publish();
  }

  void publish() const {
    std::vector<NodeStatus> all;
    for (const auto& [name, member] : membership.nodes()) {
      NodeStatus status{name, std::string(cluster::to_string(member.state)), {}};
      if (const auto it = nodes.find(name); it != nodes.end()) status.models = it->second.stats;
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
  state.admission.emplace(config->tenants);
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
  self->delayed_send(self, sweep_interval, TickAtom::value);
  return {
      [=](NodeEvents& message) { self->state.receive(message); },
      [=](EmbedResult& result) { self->state.receive(result); },
      [=](NodeReport& report) { self->state.receive(report); },
      [=](SubmitStream& request, const StreamSink& owner) { self->state.submit(request, owner); },
      [=](EmbedTokens& request, const EmbedSink& owner) { self->state.embed(request, owner); },
      [=](const CancelSequences& message) { self->state.cancel(message); },
      [=](const AddCredit& credit) { self->state.add_credit(credit); },
      [=](const NodeUp& message, const NodeActor& actor) { self->state.up(message, actor); },
      [=](const Drain& message) { self->state.drain(message); },
      [=](EndAllAtom) {
        self->state.end_overdue(Clock::time_point::max(),
                                Error(ErrorCode::unavailable, "the server has stopped"));
      },
      [=](TickAtom) {
        self->state.end_overdue(
            Clock::now(), Error(ErrorCode::deadline_exceeded,
                                "the request's deadline passed and its node does not answer"));
        self->delayed_send(self, sweep_interval, TickAtom::value);
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
