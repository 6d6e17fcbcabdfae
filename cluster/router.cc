#include "cluster/router.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace plimsoll::cluster {
namespace {

constexpr Time full_retry{0.5};  // after which full nodes are asked again

}  // namespace

Router::Router(RouterSettings settings, RunId first_run)
    : settings_(settings), next_run_(first_run), health_(settings.health) {
  quotas_.set_tiers(settings.tiers);
}

// ---- nodes

bool Router::join(const NodeOffer& offer, Time now, Actions& actions) {
  const auto* member = membership_.find(offer.name);
  if (member != nullptr && offer.epoch <= member->epoch) return false;
  if (const auto old = nodes_.find(offer.name); old != nodes_.end()) {
    give_up(old->second, "it came back with a new epoch", now, actions);
  }
  membership_.apply(offer.name, offer.epoch, NodeEvent::join);
  membership_.apply(offer.name, offer.epoch, NodeEvent::ready);
  if (offer.cordoned) membership_.apply(offer.name, offer.epoch, NodeEvent::cordon);
  Node& node = nodes_[offer.name];
  node.name = offer.name;
  node.epoch = offer.epoch;
  node.weight = offer.weight;
  node.models = offer.models;
  if (!offer.local) health_.join(offer.name, now);
  retry_parked(now, actions);
  return true;
}

void Router::set_models(const std::string& node, std::vector<std::string> models, Time now,
                        Actions& actions) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return;
  it->second.models = std::move(models);
  retry_parked(now, actions);
}

void Router::beat(const std::string& node, std::uint64_t epoch, const Beat& beat, Time now) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || it->second.epoch != epoch) return;
  it->second.reported_load = beat.sequences;
  it->second.reported_waiting = beat.waiting;
  it->second.pressure = beat.pressure;
  health_.beat(node, beat, now);
}

void Router::lose(const std::string& node, std::uint64_t epoch, const std::string& reason, Time now,
                  Actions& actions) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || it->second.epoch != epoch) return;
  give_up(it->second, reason, now, actions);
}

void Router::give_up(Node& node, const std::string& reason, Time now, Actions& actions) {
  const std::string name = node.name;
  const Time heard = health_.last_heard(name).value_or(now);
  membership_.apply(name, node.epoch, NodeEvent::lose);
  health_.leave(name);
  prefixes_.forget(name);
  actions.push_back(
      NodeGone{name, node.epoch, reason, static_cast<std::uint32_t>(node.runs.size())});
  const std::set<RunId> stranded = node.runs;
  for (const RunId run : stranded) {
    Sequence& sequence = *runs_.at(run);
    detach(sequence);
    // A node that was silent already when it got the sequence did not die of it.
    if (heard + 2 * settings_.health.heartbeat >= sequence.run_started) ++sequence.losses;
    if (sequence.cancelled) {
      end(sequence, EndCause::cancelled, name, now, actions);
    } else if (sequence.losses > settings_.most_losses) {
      end(sequence, EndCause::node_lost, name, now, actions);
    } else {
      move(sequence, {name}, EndCause::node_lost, now, actions);
    }
  }
  nodes_.erase(name);
}

bool Router::forget(const std::string& node, Time now, Actions& actions) {
  const bool known = membership_.find(node) != nullptr;
  const auto it = nodes_.find(node);
  if (it != nodes_.end()) give_up(it->second, "it was removed", now, actions);
  membership_.forget(node);
  return known;
}

bool Router::cordon(const std::string& node, bool on) {
  const auto it = nodes_.find(node);
  return it != nodes_.end() &&
         membership_.apply(node, it->second.epoch, on ? NodeEvent::cordon : NodeEvent::uncordon);
}

bool Router::drain(const std::string& node, Time deadline, Time now, Actions& actions) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || !membership_.apply(node, it->second.epoch, NodeEvent::drain)) {
    return false;
  }
  it->second.drain_at = deadline;
  it->second.finished = it->second.moved = it->second.cut = 0;
  if (deadline <= now) evacuate(it->second, now, actions);
  return true;
}

void Router::evacuate(Node& node, Time now, Actions& actions) {
  const std::set<RunId> left = node.runs;
  for (const RunId run : left) {
    Sequence& sequence = *runs_.at(run);
    cancel_run(sequence, actions);
    detach(sequence);
    if (sequence.cancelled) {
      end(sequence, EndCause::cancelled, node.name, now, actions);
    } else if (move(sequence, {node.name}, EndCause::no_node, now, actions)) {
      ++node.moved;
    } else {
      ++node.cut;
    }
  }
}

// ---- tenants

void Router::set_tenant(const Tenant& tenant, Time now) {
  double& weight = weights_[tenant.name];
  all_weights_ += weight_of(tenant.tier) - weight;
  weight = weight_of(tenant.tier);
  quotas_.set_tenant(tenant, now);
  if (!settings_.leases) quotas_.set_share(tenant.name, 1, Quotas::no_expiry, now);
}

void Router::remove_tenant(const std::string& name) {
  if (const auto it = weights_.find(name); it != weights_.end()) {
    all_weights_ -= it->second;
    weights_.erase(it);
  }
  quotas_.remove_tenant(name);
}

std::size_t Router::home_of(const std::string& tenant, std::size_t nodes) const {
  const auto it = weights_.find(tenant);
  const double weight = it == weights_.end() ? weight_of(Tier::best_effort) : it->second;
  const bool guaranteed = weight >= weight_of(Tier::guaranteed);
  return home_size(weight, std::max(weight, all_weights_), nodes, guaranteed ? 2 : 1);
}

std::vector<std::string> Router::home(const std::string& tenant, const std::string& model) const {
  const auto nodes = candidates(model, nullptr, {});
  std::vector<std::string> names;
  for (const auto i : home_set(tenant, nodes, home_of(tenant, nodes.size()))) {
    names.emplace_back(nodes[i].name);
  }
  return names;
}

double Router::node_share(const Tenant& tenant, const std::string& model) const {
  std::set<std::string_view> models{model};
  for (const auto& [node, state] : nodes_) {
    for (const auto& each : state.models) {
      const auto& allowed = tenant.quota.models;
      if (allowed.empty() || std::ranges::find(allowed, each) != allowed.end()) models.insert(each);
    }
  }
  const auto nodes = candidates(model, nullptr, {}).size();
  const auto homes = std::max<std::size_t>(1, home_of(tenant.name, nodes));
  return 1.0 / static_cast<double>(homes * models.size());
}

std::map<std::string, Usage> Router::take_usage() { return std::exchange(usage_, {}); }

std::map<std::string, std::map<std::string, std::uint64_t>> Router::take_served() {
  for (auto& [id, stream] : streams_) {
    if (stream.served == 0) continue;
    served_[stream.request.model][stream.request.tenant] += std::exchange(stream.served, 0);
  }
  return std::exchange(served_, {});
}

std::map<std::string, double> Router::kv_bytes() const {
  std::map<std::string, double> out;
  for (const auto& [id, sequence] : sequences_) {
    const NewStream& request = sequence.stream->request;
    if (request.kv.token == 0 || sequence.node == nullptr) continue;
    const auto tokens = request.prompt_tokens + sequence.emitted.size();
    out[request.tenant] += request.kv.of(static_cast<double>(tokens));
  }
  return out;
}

// ---- streams

std::vector<PlacementNode> Router::candidates(const std::string& model, const NewStream* stream,
                                              const Names& except) const {
  std::vector<PlacementNode> out;
  out.reserve(nodes_.size());
  for (const auto& [name, node] : nodes_) {
    if (membership_.find(name)->state != NodeState::ready) continue;
    if (!model.empty() && std::ranges::find(node.models, model) == node.models.end()) continue;
    if (std::ranges::find(except, name) != except.end()) continue;
    const auto own = static_cast<std::uint32_t>(node.runs.size());
    PlacementNode candidate{.name = name,
                            .weight = node.weight,
                            .load = std::max(own, node.reported_load),
                            .factor = health_.factor(name),
                            .waiting = node.reported_waiting};
    if (stream != nullptr) {
      const auto it = node.tenants.find(stream->tenant);
      if (it != node.tenants.end()) candidate.own = it->second;
      candidate.prefix_blocks = prefixes_.held(name, stream->prefix);
    }
    out.push_back(candidate);
  }
  return out;
}

Router::Node* Router::pick(const NewStream& stream, const Names& except) {
  const auto nodes = candidates(stream.model, &stream, except);
  const auto chosen =
      place(stream.tenant, nodes, home_of(stream.tenant, nodes.size()), settings_.load_bound);
  return chosen ? &nodes_.find(std::string(nodes[*chosen].name))->second : nullptr;
}

Router::Submitted Router::submit(NewStream&& request, Time now, Actions& actions) {
  Submitted out;
  const auto count = static_cast<std::uint32_t>(request.sequences.size());
  if (streams_.size() >= settings_.most_streams) {
    out.full = true;
    return out;
  }
  const auto kv_bytes =
      static_cast<std::uint64_t>(request.kv.of(request.prompt_tokens + request.generated_tokens));
  const bool may_burst = std::ranges::all_of(
      nodes_, [](const auto& entry) { return entry.second.pressure == Level::green; });
  out.decision =
      quotas_.admit(request.tenant,
                    {request.model, count, request.prompt_tokens, request.generated_tokens,
                     kv_bytes * count, request.repeats, may_burst},
                    now);
  if (out.decision.verdict != Verdict::admitted) {
    if (out.decision.verdict != Verdict::unknown_tenant) {
      ++usage_[request.tenant].rejections[reason_of(out.decision.verdict)];
    }
    return out;
  }
  Node* node = pick(request, {});
  if (node == nullptr) {
    quotas_.release(request.tenant, count, kv_bytes * count);
    ++usage_[request.tenant].rejections["no_node"];
    out.no_node = true;
    return out;
  }
  Usage& usage = usage_[request.tenant];
  ++usage.requests;
  usage.prompt_tokens += request.prompt_tokens;

  const SequenceId id = request.sequences.front().id;
  auto sequences = std::move(request.sequences);
  Stream& stream = streams_[id];
  stream.id = id;
  stream.request = std::move(request);
  stream.started = now;
  stream.kv_bytes = kv_bytes;
  stream.served = stream.request.prompt_tokens;
  stream.open = count;
  std::vector<Sequence*> starting;
  for (auto& from : sequences) {
    Sequence& sequence = sequences_[from.id];
    sequence.id = from.id;
    sequence.stream = &stream;
    sequence.resumed = static_cast<std::uint32_t>(from.resumed.size());
    sequence.emitted = std::move(from.resumed);
    sequence.granted = from.credit;
    starting.push_back(&sequence);
  }
  start(stream, starting, *node, now, actions);
  return out;
}

void Router::start(Stream& stream, const std::vector<Sequence*>& sequences, Node& node, Time now,
                   Actions& actions) {
  StartRun action{node.name, stream.request.data, {}, stream.request.deadline};
  for (Sequence* sequence : sequences) {
    sequence->node = &node;
    sequence->run = next_run_++;
    sequence->run_started = now;
    sequence->begun = false;
    parked_.erase(sequence->id);
    node.runs.insert(sequence->run);
    ++node.tenants[stream.request.tenant];
    runs_.emplace(sequence->run, sequence);
    const std::uint64_t had = sequence->emitted.size() - sequence->resumed;
    const std::uint64_t unused = sequence->granted - std::min(sequence->granted, had);
    action.sequences.push_back({sequence->run, sequence->id, sequence->emitted,
                                static_cast<std::uint32_t>(std::min<std::uint64_t>(unused, ~0U))});
  }
  prefixes_.sent(node.name, stream.request.prefix);
  actions.push_back(std::move(action));
}

void Router::detach(Sequence& sequence) {
  if (sequence.node == nullptr) return;
  sequence.node->runs.erase(sequence.run);
  auto& tenants = sequence.node->tenants;
  const auto tenant = tenants.find(sequence.stream->request.tenant);
  if (--tenant->second == 0) tenants.erase(tenant);
  runs_.erase(sequence.run);
  sequence.node = nullptr;
  sequence.run = 0;
}

bool Router::move(Sequence& sequence, const Names& except, EndCause cause, Time now,
                  Actions& actions) {
  if (now < sequence.stream->request.deadline) {
    if (Node* node = pick(sequence.stream->request, except)) {
      start(*sequence.stream, {&sequence}, *node, now, actions);
      return true;
    }
    if (settings_.park > Time(0)) {
      park(sequence, now);
      return true;
    }
  }
  end(sequence, cause, except.empty() ? std::string() : except.front(), now, actions);
  return false;
}

void Router::park(Sequence& sequence, Time now) {
  sequence.parked_at = sequence.retry_at = now;
  parked_.insert(sequence.id);
}

void Router::retry_parked(Time now, Actions& actions) {
  const std::set<SequenceId> waiting = parked_;
  for (const SequenceId id : waiting) {
    Sequence& sequence = sequences_.at(id);
    if (now < sequence.retry_at) continue;
    if (Node* node = pick(sequence.stream->request, {})) {
      start(*sequence.stream, {&sequence}, *node, now, actions);
    } else if (now - sequence.parked_at >= settings_.park) {
      end(sequence, EndCause::no_node, {}, now, actions);
    }
  }
}

void Router::add_credit(SequenceId id, std::uint32_t tokens, Actions& actions) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  it->second.granted += tokens;
  if (it->second.node != nullptr) {
    actions.push_back(CreditRun{it->second.node->name, it->second.run, tokens});
  }
}

void Router::cancel_run(const Sequence& sequence, Actions& actions) const {
  if (!actions.empty()) {
    auto* last = std::get_if<CancelRuns>(&actions.back());
    if (last != nullptr && last->node == sequence.node->name) {
      last->runs.push_back(sequence.run);
      return;
    }
  }
  actions.push_back(CancelRuns{sequence.node->name, {sequence.run}});
}

void Router::cancel(SequenceId id, Time now, Actions& actions) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second.cancelled) return;
  it->second.cancelled = true;
  if (it->second.node != nullptr) {
    cancel_run(it->second, actions);
  } else {
    end(it->second, EndCause::cancelled, {}, now, actions);
  }
}

std::optional<Router::Progress> Router::tokens(RunId run, std::span<const std::int32_t> ids,
                                               Time now) {
  const auto it = runs_.find(run);
  if (it == runs_.end()) return std::nullopt;
  Sequence& sequence = *it->second;
  Stream& stream = *sequence.stream;
  if (!ids.empty()) {
    if (!sequence.begun) {
      sequence.begun = true;
      sequence.refused_by.clear();
      // A prompt takes its time: what counts is the wait for each 256 tokens of it. Where others
      // wait too, it says how long the queue is, not how slow the node.
      const double parts = 1.0 + static_cast<double>(stream.request.prompt_tokens) / 256.0;
      if (sequence.node->reported_waiting == 0) {
        health_.latency(sequence.node->name, (now - sequence.run_started).count() / parts);
      }
    }
    sequence.emitted.insert(sequence.emitted.end(), ids.begin(), ids.end());
    sequence.node->tokens += ids.size();
    stream.generated += ids.size();
    stream.served += ids.size();
    quotas_.generated(stream.request.tenant, static_cast<std::uint32_t>(ids.size()), now);
  }
  return Progress{sequence.id, stream.request.data.get()};
}

Router::Ended Router::finish(RunId run, Outcome outcome, std::uint32_t cached_tokens, Time now,
                             Actions& actions) {
  const auto it = runs_.find(run);
  if (it == runs_.end()) return {};
  Sequence& sequence = *it->second;
  Node& node = *sequence.node;
  Stream& stream = *sequence.stream;
  if (sequence.run_started == stream.started) stream.cached_tokens = cached_tokens;
  const bool may_move = !sequence.cancelled && now < stream.request.deadline;
  if (outcome == Outcome::unavailable) {
    // It no longer runs this model; its next report says whether it does again.
    std::erase(node.models, stream.request.model);
  }
  if (outcome == Outcome::unavailable && may_move) {
    detach(sequence);
    if (move(sequence, {node.name}, EndCause::no_node, now, actions)) ++node.moved;
    return {};
  }
  if (outcome == Outcome::exhausted && may_move && !sequence.begun) {
    sequence.refused_by.push_back(node.name);
    const Names refused = sequence.refused_by;
    if (Node* other = pick(stream.request, refused)) {
      detach(sequence);
      start(stream, {&sequence}, *other, now, actions);
      return {};
    }
    if (!sequence.emitted.empty()) {  // its client has had tokens: it waits for room
      detach(sequence);
      sequence.refused_by.clear();
      park(sequence, now);
      sequence.retry_at = now + full_retry;
      return {};
    }
  }
  ++node.finished;
  Ended ended{true, sequence.id, nullptr};
  ended.data = close(sequence, now);
  return ended;
}

std::shared_ptr<StreamData> Router::close(Sequence& sequence, Time now) {
  Stream& stream = *sequence.stream;
  const NewStream& request = stream.request;
  detach(sequence);
  parked_.erase(sequence.id);
  quotas_.release(request.tenant, 1, stream.kv_bytes);
  // Tokens come about evenly, so half of them are there on average.
  const double tokens = request.prompt_tokens + 0.5 * static_cast<double>(sequence.emitted.size());
  stream.kv_byte_seconds += request.kv.of(tokens) * (now - stream.started).count();
  auto data = request.data;
  sequences_.erase(sequence.id);
  if (--stream.open == 0) {
    Usage& usage = usage_[request.tenant];
    usage.cached_tokens += stream.cached_tokens;
    usage.generated_tokens += stream.generated;
    usage.kv_byte_seconds += stream.kv_byte_seconds;
    if (stream.served > 0) served_[request.model][request.tenant] += stream.served;
    streams_.erase(stream.id);
  }
  return data;
}

void Router::end(Sequence& sequence, EndCause cause, const std::string& node, Time now,
                 Actions& actions) {
  const SequenceId id = sequence.id;
  actions.push_back(EndSequence{close(sequence, now), id, cause, node});
}

// ---- time

void Router::tick(Time now, Actions& actions) {
  const auto dead = health_.dead(now);
  // Several may go at once: nothing moves from one of them to another.
  for (const auto& [name, reason] : dead) {
    if (const auto it = nodes_.find(name); it != nodes_.end()) {
      membership_.apply(name, it->second.epoch, NodeEvent::lose);
    }
  }
  for (const auto& [name, reason] : dead) {
    if (const auto it = nodes_.find(name); it != nodes_.end()) {
      give_up(it->second, reason, now, actions);
    }
  }
  for (auto& [name, node] : nodes_) {
    const bool draining = membership_.find(name)->state == NodeState::draining;
    if (draining && node.drain_at <= now && !node.runs.empty()) evacuate(node, now, actions);
  }
  retry_parked(now, actions);
  if (now - swept_ < Time(1)) return;
  swept_ = now;
  std::vector<Sequence*> overdue;
  for (auto& [id, sequence] : sequences_) {
    if (sequence.stream->request.deadline + settings_.deadline_grace < now) {
      overdue.push_back(&sequence);
    }
  }
  for (Sequence* sequence : overdue) {
    if (sequence->node != nullptr) cancel_run(*sequence, actions);
    end(*sequence, EndCause::overdue, {}, now, actions);
  }
}

void Router::end_all(Time now, Actions& actions) {
  while (!sequences_.empty()) {
    Sequence& sequence = sequences_.begin()->second;
    if (sequence.node != nullptr) cancel_run(sequence, actions);
    end(sequence, EndCause::stopped, {}, now, actions);
  }
}

std::vector<Router::Move> Router::rebalance(bool dry_run, Time now, Actions& actions) {
  std::map<std::pair<std::string, std::string>, Move> moves;  // by tenant and from
  std::vector<SequenceId> ids;
  ids.reserve(sequences_.size());
  for (const auto& [id, sequence] : sequences_) ids.push_back(id);
  std::ranges::sort(ids);
  for (const SequenceId id : ids) {
    Sequence& sequence = sequences_.at(id);
    if (sequence.node == nullptr || sequence.cancelled) continue;
    const NewStream& request = sequence.stream->request;
    const auto homes = home(request.tenant, request.model);
    if (homes.empty() || std::ranges::find(homes, sequence.node->name) != homes.end()) continue;
    Node* target = pick(request, {sequence.node->name});
    if (target == nullptr || std::ranges::find(homes, target->name) == homes.end()) continue;
    auto& move = moves[{request.tenant, sequence.node->name}];
    move.tenant = request.tenant;
    move.from = sequence.node->name;
    move.to = target->name;
    ++move.sequences;
    if (dry_run) continue;
    cancel_run(sequence, actions);
    detach(sequence);
    start(*sequence.stream, {&sequence}, *target, now, actions);
  }
  std::vector<Move> out;
  for (auto& [key, move] : moves) out.push_back(std::move(move));
  return out;
}

}  // namespace plimsoll::cluster
