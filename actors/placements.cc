#include "actors/placements.h"

#include <algorithm>
#include <set>

namespace plimsoll {
namespace {

// By then a report shows what became of an order; one that was lost with a connection is no more
// anyway.
constexpr cluster::Time repeat_after{5.0};

// Whether a replica that LoadModel made is to go. `under`: the placement that it is there by.
bool goes(const ReplicaReport& replica, const std::string& node, const PlacedModel& under,
          const PlacedModel* wanted, const Placements::IsServed& is_served) {
  if (wanted == nullptr) return true;
  const bool here = Placements::runs_on(*wanted, node);
  if (!replica.error.empty()) return !here || under != *wanted;
  const bool same = under.model == wanted->model;
  if (replica.version.empty()) return !here || !same;
  const auto& version = wanted->model.version;
  if (version.empty() ? !same : replica.version != version) return true;
  return !here && is_served(*wanted);
}

}  // namespace

bool Placements::runs_on(const PlacedModel& placed, const std::string& node) {
  return placed.nodes.empty() || std::ranges::find(placed.nodes, node) != placed.nodes.end();
}

void Placements::set(std::vector<PlacedModel> models) {
  wanted_.emplace();
  for (auto& placed : models) {
    const std::string name = placed.model.name;
    wanted_->insert_or_assign(name, std::move(placed));
  }
}

void Placements::forget(const std::string& node) { replicas_.erase(node); }

std::vector<Placements::Order> Placements::orders(const NodeReport& report, cluster::Time now,
                                                  const IsServed& is_served) {
  std::vector<Order> out;
  if (!wanted_) return out;
  auto& known = replicas_[report.node];
  const auto told_lately = [now](const Replica& replica) {
    return replica.told && now - *replica.told < repeat_after;
  };
  std::set<std::string> shown;
  for (const auto& replica : report.replicas) {
    shown.insert(replica.model);
    if (!replica.placed) continue;
    const auto it = wanted_->find(replica.model);
    const PlacedModel* wanted = it == wanted_->end() ? nullptr : &it->second;
    auto& mine = known.try_emplace(replica.model).first->second;
    if (mine.placed.model.name.empty() && wanted != nullptr) mine.placed = *wanted;
    if (!goes(replica, report.node, mine.placed, wanted, is_served)) {
      if (replica.error.empty()) mine.placed = *wanted;
    } else if (mine.load_told || !told_lately(mine)) {
      out.emplace_back(UnloadModel{replica.model});
      mine.load_told = false;
      mine.told = now;
    }
  }
  for (const auto& [name, placed] : *wanted_) {
    if (shown.contains(name) || !runs_on(placed, report.node)) continue;
    auto& mine = known[name];
    if (mine.load_told && told_lately(mine)) {
      if (mine.placed.model == placed.model) continue;
      out.emplace_back(UnloadModel{name});  // what it was told before, and does not show yet
    }
    out.emplace_back(placed.model);
    mine = {placed, true, now};
  }
  std::erase_if(known, [&](const auto& entry) {
    return !shown.contains(entry.first) && !told_lately(entry.second);
  });
  return out;
}

}  // namespace plimsoll
