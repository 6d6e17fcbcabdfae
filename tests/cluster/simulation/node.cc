#include "tests/cluster/simulation/node.h"

#include <algorithm>
#include <utility>

namespace plimsoll::simulation {
namespace {

constexpr double heartbeat = 0.2, timeout = 1.0, longest_backoff = 2.0;
constexpr std::uint32_t block_tokens = 16;

std::uint32_t blocks_for(std::uint32_t tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

}  // namespace

Node::Node(World& world, Network& network, std::vector<Peer*> routers, NodeConfig config)
    : world_(world),
      network_(network),
      routers_(std::move(routers)),
      config_(std::move(config)),
      connections_(routers_.size()),
      planner_({.tokens = 4 * config_.places + 64,
                .sequences = config_.places,
                .logit_rows = config_.places,
                .chunk_tokens = 64},
               {block_tokens}) {}

// ---- what happens to it

void Node::boot() {
  if (up()) return;
  ++life_;
  frozen_ = hung_ = draining_ = stepping_ = false;
  slow_ = 1;
  well_since_ = world_.now();
  inbox_.clear();
  runs_.clear();
  tenants_.clear();
  planner_ = Planner(planner_.limits(), {block_tokens});
  steps_ = 0;
  for (auto& connection : connections_) connection = {};
  world_.trace("{} boots, life {}", config_.name, life_);
  world_.in(world_.between(0, heartbeat), [this, life = life_] { tick(life); });
}

void Node::crash(bool machine) {
  if (!up()) return;
  world_.trace("{} crashes ({}) with {} runs", config_.name, machine ? "machine" : "process",
               runs_.size());
  for (std::size_t r = 0; r < connections_.size() && !machine; ++r) {
    if (connections_[r].epoch == 0) continue;
    // It may be noticed after a new life has said hello.
    world_.in(0.001 + world_.exponential(0.2),
              [this, r, epoch = connections_[r].epoch] { routers_[r]->closed(*this, epoch); });
  }
  ++life_;
  if (!frozen_) silent_since_ = world_.now();
}

void Node::freeze() {
  if (!up() || frozen_) return;
  world_.trace("{} freezes", config_.name);
  frozen_ = true;
  silent_since_ = world_.now();
}

void Node::thaw() {
  if (!frozen_) return;
  world_.trace("{} thaws", config_.name);
  frozen_ = false;
  well_since_ = world_.now();
  const auto inbox = std::exchange(inbox_, {});
  for (const auto& message : inbox) message();
  schedule_step();
}

void Node::unhang() {
  hung_ = false;
  well_since_ = world_.now();
  schedule_step();
}

bool Node::drain(double deadline_s) {
  if (!healthy()) return false;
  world_.trace("{} drains within {:.1f} s", config_.name, deadline_s);
  draining_ = true;
  drain_at_ = world_.now() + deadline_s;
  return true;
}

bool Node::later(std::function<void()> message) {
  if (!frozen_) return false;
  inbox_.push_back([this, life = life_, message = std::move(message)] {
    if (life == life_) message();
  });
  return true;
}

// ---- connections

void Node::tick(std::uint64_t life) {
  if (life != life_) return;
  world_.in(heartbeat, [this, life] { tick(life); });
  if (frozen_) return;
  const double now = world_.now();
  for (std::size_t r = 0; r < connections_.size(); ++r) {
    Connection& connection = connections_[r];
    if (connection.epoch != 0 && now - connection.heard > timeout) disconnect(r);
    if (connection.epoch != 0) {
      Report report;
      report.draining = draining_;
      report.beat.steps = steps_;
      report.beat.sequences = static_cast<std::uint32_t>(runs_.size());
      report.beat.waiting = static_cast<std::uint32_t>(std::ranges::count_if(
          runs_, [](auto& run) { return run.view.state == PlannerSequence::State::waiting; }));
      report.beat.round_trip_s = 2 * network_.link(r, config_.index).delay;
      network_.to_router(r, config_.index, [this, r, epoch = connection.epoch, report] {
        routers_[r]->report(*this, epoch, report);
      });
    } else if (now >= connection.next_try && now - connection.said_hello > timeout) {
      connection.said_hello = now;
      connection.next_try = now + connection.backoff;
      connection.backoff = std::min(connection.backoff * 2, longest_backoff);
      network_.to_router(r, config_.index, [this, r, life] { routers_[r]->hello(*this, life); });
    }
  }
  Events events;
  if (!hung_) check_deadlines(events);
  if (draining_ && now >= drain_at_) {
    while (!runs_.empty()) finish(runs_.size() - 1, Finish::unavailable, events);
  }
  send(events);
  if (draining_ && runs_.empty() && now >= drain_at_) crash(false);
}

void Node::disconnect(std::size_t router) {
  Connection& connection = connections_[router];
  world_.trace("{} lets go of router {}, epoch {}", config_.name, router, connection.epoch);
  connection = {};
  connection.next_try = world_.now() + connection.backoff;
  Events none;
  for (std::size_t i = runs_.size(); i-- > 0;) {
    if (runs_[i].router == router) finish(i, Finish::cancelled, none);
  }
}

void Node::welcome(std::size_t router, std::uint64_t life, std::uint64_t epoch) {
  if (life != life_ || later([=, this] { welcome(router, life, epoch); })) return;
  if (connections_[router].epoch != 0) disconnect(router);
  connections_[router] = {.epoch = epoch, .heard = world_.now()};
}

void Node::refused(std::size_t router, std::uint64_t epoch) {
  if (!up() || later([=, this] { refused(router, epoch); })) return;
  if (connections_[router].epoch == epoch) disconnect(router);
}

void Node::heard(std::size_t router, std::uint64_t epoch) {
  if (!up() || later([=, this] { heard(router, epoch); })) return;
  if (connections_[router].epoch == epoch) connections_[router].heard = world_.now();
}

// ---- work

void Node::start(std::size_t router, std::uint64_t epoch, Start request) {
  if (!up() || later([=, this] { start(router, epoch, request); })) return;
  if (connections_[router].epoch != epoch) return;
  Events events;
  for (const Run& run : request.runs) {
    for (std::size_t i = 0; i < run.resumed.size(); ++i) {
      world_.require(run.resumed[i] == token_at(run.seed, i),
                     "run {} on {} is to go on behind a token {} that is none of its own", run.id,
                     config_.name, i);
    }
    if (run.resumed.size() >= run.length) {  // only the word that it is complete was lost
      events[router].push_back({run.id, {}, Finish::complete});
      continue;
    }
    const bool full = runs_.size() >= config_.most_runs;
    if (draining_ || full) {
      events[router].push_back({run.id, {}, draining_ ? Finish::unavailable : Finish::exhausted});
      continue;
    }
    const auto known = static_cast<std::uint32_t>(tenants_.size());
    Tenant& tenant = tenants_.try_emplace(request.tenant, Tenant{known, 0}).first->second;
    ++tenant.runs;
    planner_.activate(tenant.index, request.weight);
    Working working;
    working.router = router;
    working.id = run.id;
    working.tenant = request.tenant;
    working.seed = run.seed;
    working.length = run.length;
    working.emitted = static_cast<std::uint32_t>(run.resumed.size());
    working.prompt_tokens = request.prompt_tokens;
    working.credit = run.credit;
    working.deadline = world_.now() + request.deadline_s;
    working.view.tenant = tenant.index;
    working.view.order = arrivals_++;
    working.view.target = request.prompt_tokens + working.emitted;
    runs_.push_back(std::move(working));
  }
  send(events);
  schedule_step();
}

void Node::cancel(std::size_t router, std::uint64_t epoch,
                  const std::vector<cluster::RunId>& runs) {
  if (!up() || later([=, this] { cancel(router, epoch, runs); })) return;
  if (connections_[router].epoch != epoch) return;
  Events events;
  for (const auto id : runs) {
    const auto it = std::ranges::find(runs_, id, &Working::id);
    if (it == runs_.end()) continue;
    finish(static_cast<std::size_t>(it - runs_.begin()), Finish::cancelled, events);
  }
  send(events);
}

void Node::add_credit(std::size_t router, std::uint64_t epoch, cluster::RunId run,
                      std::uint32_t tokens) {
  if (!up() || later([=, this] { add_credit(router, epoch, run, tokens); })) return;
  if (connections_[router].epoch != epoch) return;
  const auto it = std::ranges::find(runs_, run, &Working::id);
  if (it == runs_.end()) return;
  it->credit += tokens;
  schedule_step();
}

void Node::schedule_step() {
  if (stepping_ || frozen_ || hung_ || runs_.empty()) return;
  stepping_ = true;
  world_.in(config_.step_s * slow_, [this, life = life_] { step(life); });
}

void Node::step(std::uint64_t life) {
  if (life != life_) return;
  stepping_ = false;
  if (frozen_ || hung_ || runs_.empty()) return;
  std::vector<PlannerSequence> views;
  std::uint32_t held = 0;
  for (Working& run : runs_) {
    using State = PlannerSequence::State;
    PlannerSequence& view = run.view;
    if (view.state == State::running && run.credit == 0) view.state = State::paused;
    if (view.state == State::paused && run.credit > 0) view.state = State::running;
    if (view.state == State::waiting && run.credit == 0) continue;
    held += view.freeable = view.blocks;
    views.push_back(view);
  }
  Events events;
  const StepPlan& plan = planner_.plan(views, config_.blocks - held, config_.blocks);
  const auto run_of = [this](const PlannerSequence& view) {
    return std::ranges::lower_bound(runs_, view.order, {},
                                    [](const Working& run) { return run.view.order; });
  };
  for (const std::uint32_t i : plan.preempted) {
    PlannerSequence& view = run_of(views[i])->view;
    view.state = PlannerSequence::State::waiting;
    view.computed = view.rows = view.blocks = 0;
  }
  const bool worked = !plan.chunks.empty();
  std::vector<std::uint64_t> complete;
  for (const PlannedChunk& chunk : plan.chunks) {
    Working& run = *run_of(views[chunk.sequence]);
    PlannerSequence& view = run.view;
    view.state = PlannerSequence::State::running;
    view.computed += chunk.tokens;
    view.rows = view.blocks = std::max(view.blocks, blocks_for(view.computed));
    if (view.computed < view.target) {
      planner_.serve(view.tenant, chunk.tokens * Planner::prompt_token_cost);
      continue;
    }
    planner_.serve(view.tenant, Planner::output_token_cost);
    ++view.target;
    ++served_[run.tenant];
    --run.credit;
    events[run.router].push_back({run.id, {token_at(run.seed, run.emitted)}, Finish::none});
    if (++run.emitted == run.length) {
      events[run.router].back().finish = Finish::complete;
      complete.push_back(view.order);
    }
  }
  Events ended;  // said already, with the last token
  for (const auto order : complete) {
    const auto it =
        std::ranges::find(runs_, order, [](const Working& run) { return run.view.order; });
    finish(static_cast<std::size_t>(it - runs_.begin()), Finish::complete, ended);
  }
  if (worked) ++steps_;
  check_deadlines(events);
  send(events);
  if (worked) schedule_step();
}

void Node::check_deadlines(Events& events) {
  for (std::size_t i = runs_.size(); i-- > 0;) {
    if (runs_[i].deadline <= world_.now()) finish(i, Finish::deadline, events);
  }
}

void Node::finish(std::size_t index, Finish why, Events& events) {
  const Working& run = runs_[index];
  events[run.router].push_back({run.id, {}, why});
  Tenant& tenant = tenants_.at(run.tenant);
  if (--tenant.runs == 0) planner_.deactivate(tenant.index);
  runs_.erase(runs_.begin() + static_cast<std::ptrdiff_t>(index));
}

void Node::send(const Events& events) {
  for (const auto& [r, list] : events) {
    const auto epoch = connections_[r].epoch;
    if (epoch == 0) continue;
    network_.to_router(r, config_.index, [this, r = r, epoch, list = list] {
      routers_[r]->events(*this, epoch, list);
    });
  }
}

}  // namespace plimsoll::simulation
