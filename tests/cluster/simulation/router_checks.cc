// What must hold of a router at any time.
#include <algorithm>
#include <cmath>

#include "tests/cluster/simulation/router_process.h"

namespace plimsoll::simulation {

void RouterProcess::note_held(const std::string& tenant) {
  cluster_.quotas.holds(index_, tenant, core_->quotas().sequences(tenant));
}

void RouterProcess::note_usage() {
  for (const auto& [tenant, usage] : core_->take_usage()) generated_ += usage.generated_tokens;
}

// A tenant's first node changes only if it is gone, or if the new one is new.
void RouterProcess::check_homes() {
  std::set<std::string> ready;
  for (const auto& [name, node] : core_->nodes()) {
    if (core_->membership().find(name)->state == cluster::NodeState::ready) ready.insert(name);
  }
  int looked_at = 0;
  for (const auto& [tenant, record] : cluster_.records.tenants) {
    if (++looked_at > 3) break;
    const auto home = core_->home(tenant);
    world_.require(home.empty() == ready.empty(),
                   "{} has no home at router {} and {} nodes are ready", tenant, index_,
                   ready.size());
    if (home.empty()) {
      homes_.erase(tenant);
      continue;
    }
    auto& known = homes_[tenant];
    const bool moved = !known.empty() && known != home.front();
    world_.require(!moved || !ready.contains(known) || !ready_.contains(home.front()),
                   "{} moved from {} to {} without need at router {}", tenant, known, home.front(),
                   index_);
    known = home.front();
  }
  ready_ = std::move(ready);
}

bool RouterProcess::can_take(const std::string& name, const cluster::Router::Node& node,
                             const std::string& model) const {
  return core_->membership().find(name)->state == cluster::NodeState::ready &&
         std::ranges::find(node.models, model) != node.models.end();
}

// Right after a placement: no node above its bounded part of all that the router knows of.
void RouterProcess::check_loads(const cluster::StartRun& start) {
  double all = 0, weights = 0, part = 0, load = 0;
  const auto& model = static_cast<const ClientStream&>(*start.data).model;
  for (const auto& [name, node] : core_->nodes()) {
    if (!can_take(name, node, model)) continue;
    const double weight = node.weight * core_->health().factor(name);
    double own = std::max<double>(static_cast<double>(node.runs.size()), node.reported_load);
    if (name == start.node) {
      own = std::max<double>(static_cast<double>(node.runs.size() - start.sequences.size()),
                             node.reported_load);
      part = weight;
      load = own;
    }
    all += own;
    weights += weight;
  }
  world_.require(load + 1 <= std::ceil(1.25 * (all + 1) * part / weights) + 1e-6,
                 "router {} puts a stream on {} with {} of {} sequences and {:.3f} of the weight",
                 index_, start.node, load, all, part / weights);
}

// There is none: then there must be none that has been well, and connected, for a while.
void RouterProcess::check_no_node(const std::string& model) {
  constexpr double while_s = 8;
  for (const auto& node : cluster_.nodes) {
    const auto& config = node->config();
    const bool has = std::ranges::find(config.models, model) != config.models.end();
    const bool cordoned = cluster_.records.cordoned.contains(config.name);
    const Link& link = cluster_.network.link(index_, config.index);
    const double since = std::max({node->well_since(), link.whole_since, up_since_});
    const bool cut = link.to_node.is_cut() || link.to_router.is_cut();
    const auto* member = core_->membership().find(config.name);
    if (member != nullptr && member->state == cluster::NodeState::draining) continue;
    world_.require(!node->healthy() || !has || cordoned || cut || since + while_s > world_.now(),
                   "router {} has no node for {}, but {} has been well for {:.1f} s", index_, model,
                   config.name, world_.now() - since);
  }
}

void RouterProcess::node_hangs(Node& node) {
  constexpr double in_time = 14;  // of which 10 s without a step
  if (!up() || !node.up()) return;
  const std::string name = node.config().name;
  const auto it = core_->nodes().find(name);
  if (it == core_->nodes().end()) return;
  world_.in(in_time, [this, &node, name, at = world_.now(), life = life_, epoch = it->second.epoch,
                      runs = it->second.runs] {
    if (life != life_ || !node.hung() || node.well_since() > at) return;
    const auto now = core_->nodes().find(name);
    if (now == core_->nodes().end() || now->second.epoch != epoch) return;
    for (const auto run : runs) {
      world_.require(!now->second.runs.contains(run),
                     "run {} of router {} is still on {}, which hangs", run, index_, name);
    }
  });
}

void RouterProcess::check_idle() {
  if (!up()) return;
  note_usage();
  world_.require(core_->streams() == 0 && core_->sequences() == 0,
                 "router {} still holds {} streams, {} sequences", index_, core_->streams(),
                 core_->sequences());
  for (const auto& [name, node] : core_->nodes()) {
    world_.require(node.runs.empty(), "router {} still counts {} runs on {}", index_,
                   node.runs.size(), name);
  }
  for (const auto& [name, tenant] : cluster_.records.tenants) {
    world_.require(core_->quotas().sequences(name) == 0,
                   "router {} still counts {} sequences of {}", index_,
                   core_->quotas().sequences(name), name);
  }
}

}  // namespace plimsoll::simulation
