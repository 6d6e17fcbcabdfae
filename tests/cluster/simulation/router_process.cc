#include "tests/cluster/simulation/router_process.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace plimsoll::simulation {
namespace {

constexpr double tick_s = 0.1, renewal_s = 1.0, idle_s = 20;

using cluster::Time;
using cluster::Verdict;
using Outcome = cluster::Router::Outcome;

Outcome outcome_of(Finish finish) {
  switch (finish) {
    case Finish::unavailable: return Outcome::unavailable;
    case Finish::exhausted: return Outcome::exhausted;
    default: return Outcome::done;
  }
}

End end_of(Finish finish) {
  switch (finish) {
    case Finish::cancelled: return End::cancelled;
    case Finish::deadline: return End::deadline;
    case Finish::exhausted: return End::exhausted;
    case Finish::unavailable: return End::no_node;
    default: return End::complete;
  }
}

}  // namespace

RouterProcess::RouterProcess(Cluster cluster, std::size_t index, double skew_s, bool checks_loads)
    : world_(cluster.world),
      cluster_(cluster),
      index_(index),
      offset_(cluster.world.between(0, 1e6)),
      skew_(skew_s),
      checks_loads_(checks_loads) {}

// ---- what happens to it

void RouterProcess::boot() {
  if (up()) return;
  ++life_;
  up_since_ = world_.now();
  world_.trace("router {} boots, life {}", index_, life_);
  cluster::RouterSettings settings;
  settings.leases = true;
  core_.emplace(settings, (index_ + 1) << 48 | life_ << 32 | 1);
  for (const auto& [name, tenant] : cluster_.records.tenants) core_->set_tenant(tenant, now());
  world_.in(tick_s, [this, life = life_] { tick(life); });
}

void RouterProcess::stop(bool crash) {
  if (!up()) return;
  world_.trace("router {} {}, {} streams", index_, crash ? "crashes" : "stops", core_->streams());
  if (!crash) {
    core_->end_all(now(), actions_);
    carry_out();
    note_usage();
  }
  for (const auto& [node, epoch] : epochs_) {
    // A process that dies closes its connections; a machine that dies does not.
    if (crash && world_.chance(0.5)) continue;
    cluster_.network.to_node(index_, node, [this, node = node, epoch = epoch] {
      cluster_.nodes[node]->refused(index_, epoch);
    });
  }
  ++life_;
  core_.reset();
  actions_.clear();
  epochs_.clear();
  holdings_.clear();
  placed_.clear();
  heard_.clear();
  homes_.clear();
  ready_.clear();
  cluster_.quotas.router_gone(index_);
  cluster_.clients.router_gone(index_);
}

void RouterProcess::tenant_changed(const std::string& name) {
  if (!up()) return;
  const auto it = cluster_.records.tenants.find(name);
  if (it != cluster_.records.tenants.end()) {
    core_->set_tenant(it->second, now());
  } else {
    core_->remove_tenant(name);
    homes_.erase(name);
  }
}

void RouterProcess::cordon(const std::string& node, bool on) {
  if (up()) core_->cordon(node, on);
}

void RouterProcess::drain(const std::string& node, double deadline_s) {
  if (!up()) return;
  core_->drain(node, now() + Time(deadline_s), now(), actions_);
  carry_out();
}

void RouterProcess::rebalance() {
  if (!up()) return;
  const auto moves = core_->rebalance(false, now(), actions_);
  carry_out();
  world_.trace("router {} rebalances: {} moves", index_, moves.size());
}

Node& RouterProcess::node_named(const std::string& name) const {
  return *cluster_.nodes[static_cast<std::size_t>(std::stoul(name.substr(5)))];
}

void RouterProcess::tick(std::uint64_t life) {
  if (life != life_) return;
  world_.in(tick_s, [this, life] { tick(life); });
  core_->tick(now(), actions_);
  carry_out();
  const auto ticks = std::lround(world_.now() / tick_s);
  if (ticks % 10 == 0) {
    check_homes();
    note_usage();
    for (auto it = holdings_.begin(); it != holdings_.end();) {
      const auto here = it++;
      const bool idle = world_.now() - here->second.used > idle_s;
      if (idle && core_->quotas().sequences(here->first) == 0 && !here->second.renewing) {
        holdings_.erase(here);  // it runs out
      } else {
        renew(std::string(here->first));
      }
    }
  }
}

// ---- its clients

void RouterProcess::submit(const std::shared_ptr<ClientStream>& stream) {
  const std::uint32_t attempt = stream->attempts;
  use_lease(stream->tenant);
  Holding& holding = holdings_[stream->tenant];
  if (holding.share <= 0 && holding.waiting.size() < 100) {
    holding.waiting.emplace_back(stream, attempt);
    return;
  }
  admit(stream, attempt);
}

void RouterProcess::admit(const std::shared_ptr<ClientStream>& stream, std::uint32_t attempt) {
  cluster::NewStream request;
  request.tenant = stream->tenant;
  request.model = stream->model;
  request.prefix = stream->prefix;
  request.prompt_tokens = stream->prompt_tokens;
  request.generated_tokens = stream->most_generated;
  request.deadline = now() + Time(stream->deadline - world_.now());
  request.data = stream;
  for (const auto& sequence : stream->sequences) {
    if (sequence.ended) continue;
    cluster::NewSequence fresh{sequence.id, 16, {}};
    for (std::uint32_t i = 0; i < sequence.received; ++i) {
      fresh.resumed.push_back(token_at(sequence.seed, i));
    }
    request.sequences.push_back(std::move(fresh));
  }
  if (request.sequences.empty() || stream->attempts != attempt) return;
  const cluster::Ask ask{request.model, static_cast<std::uint32_t>(request.sequences.size()),
                         request.prompt_tokens, request.generated_tokens, 0};
  const auto submitted = core_->submit(std::move(request), now(), actions_);
  const auto& decision = submitted.decision;
  const char* reason = submitted.full      ? "full"
                       : submitted.no_node ? "no_node"
                                           : cluster::reason_of(decision.verdict);
  if (submitted.no_node) check_no_node(stream->model);
  if (submitted.full || submitted.no_node || decision.verdict != Verdict::admitted) {
    const double retry = submitted.full || submitted.no_node
                             ? 1.0
                             : static_cast<double>(decision.retry_after.count()) / 1000;
    world_.trace("router {} refuses stream {} of {}: {}, again in {:.3f} s", index_, stream->number,
                 stream->tenant, reason, retry);
    to_client([this, stream, attempt, reason, retry] {
      cluster_.clients.refused(stream, attempt, reason, retry);
    });
  } else {
    cluster_.quotas.admitted(index_, stream->tenant, ask);
    if (checks_loads_) {
      for (const auto& action : actions_) {
        if (const auto* start = std::get_if<cluster::StartRun>(&action)) check_loads(*start);
      }
    }
  }
  carry_out();
}

void RouterProcess::add_credit(cluster::SequenceId id, std::uint32_t tokens) {
  if (!up()) return;
  core_->add_credit(id, tokens, actions_);
  carry_out();
}

void RouterProcess::cancel(cluster::SequenceId id) {
  if (!up()) return;
  core_->cancel(id, now(), actions_);
  carry_out();
}

// In order, a little later; what is on its way when the process dies is lost.
void RouterProcess::to_client(std::function<void()> deliver) {
  client_last_ = std::max(client_last_, world_.now() + world_.between(0.0005, 0.005));
  world_.in(client_last_ - world_.now(), [this, life = life_, deliver = std::move(deliver)] {
    if (life == life_) deliver();
  });
}

// ---- its nodes

void RouterProcess::hello(Node& node, std::uint64_t life) {
  if (!up()) return;
  last_epoch_ = std::max(last_epoch_ + 1, wall_ms());
  const std::uint64_t epoch = last_epoch_;
  const std::size_t i = node.config().index;
  cluster_.network.to_node(
      index_, i, [this, i, life, epoch] { cluster_.nodes[i]->welcome(index_, life, epoch); });
  const auto& name = node.config().name;
  const bool cordoned = cluster_.records.cordoned.contains(name);
  const cluster::NodeOffer offer{name, epoch, node.config().weight, {}, false, cordoned};
  if (!core_->join(offer, now(), actions_)) return;
  // What goes to its old self goes first.
  auto actions = std::exchange(actions_, {});
  for (auto& action : actions) {
    if (auto* gone = std::get_if<cluster::NodeGone>(&action)) carry_out(*gone);
  }
  epochs_[i] = epoch;
  heard_[i] = world_.now();
  std::erase_if(actions,
                [](const auto& a) { return std::holds_alternative<cluster::NodeGone>(a); });
  actions_ = std::move(actions);
  carry_out();
}

void RouterProcess::report(Node& node, std::uint64_t epoch, const Report& report) {
  if (!up()) return;
  const std::string& name = node.config().name;
  const auto before = core_->health().last_heard(name);
  core_->beat(name, epoch, report.beat, now());
  const auto it = core_->nodes().find(name);
  if (it == core_->nodes().end() || it->second.epoch != epoch) {
    world_.require(core_->health().last_heard(name) == before,
                   "router {} takes a heartbeat of epoch {} of {} for one of now", index_, epoch,
                   name);
    return;
  }
  heard_[node.config().index] = world_.now();
  if (it->second.models != node.config().models) {
    core_->set_models(name, node.config().models, now(), actions_);
  }
  if (report.draining) core_->drain(name, Time(1e300), now(), actions_);
  if (!cluster_.network.link(index_, node.config().index).to_node.is_cut()) {
    node.heard(index_, epoch);
  }
  carry_out();
}

void RouterProcess::events(Node& node, std::uint64_t, const std::vector<RunEvent>& events) {
  if (!up()) return;
  for (const RunEvent& event : events) {
    const auto progress = core_->tokens(event.run, event.tokens, now());
    if (!progress) continue;
    const auto id = progress->id;
    const auto* stream = static_cast<const ClientStream*>(progress->data);
    const std::string tenant = stream->tenant;
    tokens_ += event.tokens.size();
    if (!event.tokens.empty()) {
      to_client([this, id, tokens = event.tokens] { cluster_.clients.tokens(id, tokens); });
    }
    if (event.finish == Finish::none) continue;
    const auto ended = core_->finish(event.run, outcome_of(event.finish), 0, now(), actions_);
    note_held(tenant);
    if (!ended.closed) continue;
    placed_.erase(id);
    const End how = end_of(event.finish);
    if (how == End::exhausted) {
      world_.trace("router {}: {} was the last to refuse sequence {}", index_, node.config().name,
                   id);
    }
    to_client([this, id, how] { cluster_.clients.ended(id, how); });
  }
  carry_out();
}

void RouterProcess::closed(Node& node, std::uint64_t epoch) {
  if (!up()) return;
  const std::string& name = node.config().name;
  const auto it = core_->nodes().find(name);
  const bool old = it != core_->nodes().end() && it->second.epoch != epoch;
  core_->lose(name, epoch, "the connection was closed", now(), actions_);
  world_.require(!old || core_->nodes().contains(name),
                 "router {} gives up {} for the end of its old epoch {}", index_, name, epoch);
  carry_out();
}

// ---- what the router decides

void RouterProcess::carry_out() {
  while (!actions_.empty()) {
    auto batch = std::exchange(actions_, {});
    for (auto& action : batch) {
      std::visit([this](auto& each) { carry_out(each); }, action);
    }
  }
}

void RouterProcess::carry_out(cluster::StartRun& start) {
  const auto& stream = static_cast<const ClientStream&>(*start.data);
  Node& node = node_named(start.node);
  const std::size_t i = node.config().index;
  const auto connected = epochs_.find(i);
  world_.require(connected != epochs_.end(),
                 "router {} starts a run on {}, which it is not connected to", index_, start.node);
  Start message;
  message.tenant = stream.tenant;
  const cluster::Tenant* tenant = core_->quotas().find(stream.tenant);
  message.weight = tenant != nullptr ? cluster::weight_of(tenant->tier) : 1;
  message.prompt_tokens = stream.prompt_tokens;
  message.deadline_s = (start.deadline - now()).count();
  for (auto& run : start.sequences) {
    const auto sequence = std::ranges::find(stream.sequences, run.id, &ClientStream::Sequence::id);
    if (sequence == stream.sequences.end()) continue;  // its client has left
    Placed& placed = placed_[run.id];
    placed.node = i;
    placed.at = world_.now();
    if (!run.emitted.empty()) {
      world_.trace("router {} goes on with sequence {} of stream {} on {} behind {} tokens", index_,
                   run.id, stream.number, start.node, run.emitted.size());
    }
    message.runs.push_back(
        {run.run, sequence->seed, sequence->length, run.credit, std::move(run.emitted)});
  }
  cluster_.network.to_node(index_, i, [this, i, epoch = connected->second, message] {
    cluster_.nodes[i]->start(index_, epoch, message);
  });
}

void RouterProcess::carry_out(const cluster::CancelRuns& cancel) {
  const std::size_t i = node_named(cancel.node).config().index;
  const auto connected = epochs_.find(i);
  if (connected == epochs_.end()) return;
  cluster_.network.to_node(index_, i, [this, i, epoch = connected->second, runs = cancel.runs] {
    cluster_.nodes[i]->cancel(index_, epoch, runs);
  });
}

void RouterProcess::carry_out(const cluster::CreditRun& credit) {
  const std::size_t i = node_named(credit.node).config().index;
  const auto connected = epochs_.find(i);
  if (connected == epochs_.end()) return;
  cluster_.network.to_node(index_, i, [this, i, epoch = connected->second, credit] {
    cluster_.nodes[i]->add_credit(index_, epoch, credit.run, credit.tokens);
  });
}

void RouterProcess::carry_out(const cluster::EndSequence& end) {
  const auto& stream = static_cast<const ClientStream&>(*end.data);
  note_held(stream.tenant);
  End how = End::cancelled;
  switch (end.cause) {
    case cluster::EndCause::cancelled: how = End::cancelled; break;
    case cluster::EndCause::node_lost:
      how = End::node_lost;
      if (world_.now() >= stream.deadline - 0.01) how = End::deadline;
      world_.require(how == End::deadline || placed_[end.id].deaths > 2,
                     "stream {} was given up after {} deaths of nodes", stream.number,
                     placed_[end.id].deaths);
      break;
    case cluster::EndCause::no_node:
      how = End::no_node;
      if (world_.now() >= stream.deadline - 0.01) how = End::deadline;
      if (how == End::no_node) check_no_node(stream.model);
      break;
    case cluster::EndCause::overdue: how = End::deadline; break;
    case cluster::EndCause::stopped: how = End::stopped; break;
  }
  placed_.erase(end.id);
  to_client([this, id = end.id, how] { cluster_.clients.ended(id, how); });
}

void RouterProcess::carry_out(const cluster::NodeGone& gone) {
  const std::size_t i = node_named(gone.node).config().index;
  world_.trace("router {} gives up {}, epoch {}, {} sequences: {}", index_, gone.node, gone.epoch,
               gone.sequences, gone.reason);
  // A node that was silent when it got a sequence did not die of it.
  for (auto& [id, placed] : placed_) {
    if (placed.node == i && heard_[i] + 0.4 >= placed.at) ++placed.deaths;
  }
  const auto connected = epochs_.find(i);
  if (connected == epochs_.end() || connected->second != gone.epoch) return;
  cluster_.network.to_node(
      index_, i, [this, i, epoch = gone.epoch] { cluster_.nodes[i]->refused(index_, epoch); });
  epochs_.erase(connected);
}

// ---- leases

void RouterProcess::use_lease(const std::string& tenant) {
  Holding& holding = holdings_[tenant];
  holding.used = world_.now();
  if (holding.share <= 0) renew(tenant);
}

void RouterProcess::renew(const std::string& tenant) {
  Holding& holding = holdings_[tenant];
  if (holding.renewing) return;
  holding.renewing = true;
  const auto& quotas = core_->quotas();
  const double demand = std::max(quotas.demand(tenant, now()), holding.waiting.empty() ? 0 : 0.01);
  const double in_use = quotas.in_use(tenant, now());
  world_.in(world_.between(0.001, 0.02), [=, this, life = life_, wall = wall_ms()] {
    read_lease(life, tenant, demand, in_use, wall, 5);
  });
}

void RouterProcess::read_lease(std::uint64_t life, const std::string& tenant, double demand,
                               double in_use, std::uint64_t wall, int tries) {
  const auto later = [this](double delay, auto then) { world_.in(delay, std::move(then)); };
  if (!cluster_.store.reachable[index_] || tries == 0) {
    return later(0.5, [=, this] { renewed(life, tenant, std::nullopt); });
  }
  const auto stored = cluster_.store.leases[tenant];
  auto lease = cluster::renew(stored.lease, std::to_string(index_), demand, in_use, wall);
  // The write goes its way even if its sender dies.
  later(world_.between(0.001, 0.02), [=, this, version = stored.version] {
    if (!cluster_.store.reachable[index_]) {
      return later(0.5, [=, this] { renewed(life, tenant, std::nullopt); });
    }
    if (!cluster_.store.swap(tenant, version, lease)) {
      return read_lease(life, tenant, demand, in_use, wall, tries - 1);
    }
    const bool lost = world_.chance(0.02);
    const std::optional<cluster::QuotaLease> reply = lost ? std::nullopt : std::optional(lease);
    later(lost ? 0.5 : world_.between(0.001, 0.02), [=, this] { renewed(life, tenant, reply); });
  });
}

void RouterProcess::renewed(std::uint64_t life, const std::string& tenant,
                            const std::optional<cluster::QuotaLease>& lease) {
  if (life != life_) return;
  const auto it = holdings_.find(tenant);
  if (it == holdings_.end()) return;
  Holding& holding = it->second;
  holding.renewing = false;
  if (lease) {
    const auto granted = cluster::granted(*lease, std::to_string(index_));
    const double left =
        (static_cast<double>(granted.until_ms) - static_cast<double>(wall_ms())) / 1000;
    if (cluster_.records.tenants.contains(tenant)) {
      core_->quotas().set_share(tenant, granted.share, now() + Time(left), now());
      cluster_.quotas.share(index_, tenant, granted.share, world_.now() + left);
    }
    holding.share = granted.share;
  }
  const auto waiting = std::exchange(holding.waiting, {});
  for (const auto& [stream, attempt] : waiting) admit(stream, attempt);
}

}  // namespace plimsoll::simulation
