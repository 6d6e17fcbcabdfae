// The planner's tenants: what they were served, who of them is greedy, and what greedy ones may add
// to the steps of others.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/batching/planner.h"

namespace plimsoll {

void Planner::activate(std::uint32_t tenant, double weight, std::uint32_t guaranteed) {
  assert(weight > 0);
  if (tenant >= tenants_.size()) tenants_.resize(tenant + 1);
  tenants_[tenant].weight = weight;
  tenants_[tenant].guaranteed = guaranteed;
  if (tenants_[tenant].active) return;
  double least = std::numeric_limits<double>::infinity();
  for (const Tenant& other : tenants_) {
    if (other.active) least = std::min(least, other.served);
  }
  if (least == std::numeric_limits<double>::infinity()) least = last_served_;
  tenants_[tenant].served = std::max(tenants_[tenant].served, least);
  tenants_[tenant].active = true;
}

void Planner::deactivate(std::uint32_t tenant) {
  tenants_[tenant].active = false;
  last_served_ = tenants_[tenant].served;
}

void Planner::forget(std::uint32_t tenant) {
  assert(!tenants_[tenant].active);
  tenants_[tenant].served = 0;
  tenants_[tenant].used = 0;
  tenants_[tenant].guaranteed = 0;
}

void Planner::pass(double seconds) {
  const double kept = std::exp(-seconds / memory_seconds);
  for (Tenant& tenant : tenants_) {
    tenant.used *= kept;
    if (tenant.used < 1e-6) tenant.used = 0;
  }
}

void Planner::find_greedy() {
  by_demand_.clear();
  for (std::uint32_t t = 0; t < tenants_.size(); ++t) {
    Tenant& tenant = tenants_[t];
    tenant.was_greedy = std::exchange(tenant.greedy, false);
    if (tenant.used > 0 || tenant.next > 0) by_demand_.push_back(t);
  }
  if (!cost_.known() || by_demand_.size() < 2) return;
  for (const std::uint32_t t : by_demand_) {
    tenants_[t].demand = tenants_[t].used + tenants_[t].wanted;
  }
  find_over_share(usable_share * memory_seconds, 0);
  // Streams that fill a step are felt before they have used much.
  for (const std::uint32_t t : by_demand_) tenants_[t].demand = tenants_[t].decode_seconds;
  const double step = std::max(0.0, limits_.decode_step_seconds - cost_.base);
  find_over_share(step, step);
}

// Max-min fair shares by weight (water filling): from the least demanding on, whoever wants no more
// than an equal part of what is left for its weight gets it. The others are greedy, if they want
// `least` or more.
void Planner::find_over_share(double seconds, double least) {
  double weights = 0;
  for (const std::uint32_t t : by_demand_) weights += tenants_[t].weight;
  std::ranges::sort(by_demand_, {},
                    [&](std::uint32_t t) { return tenants_[t].demand / tenants_[t].weight; });
  for (const std::uint32_t t : by_demand_) {
    Tenant& tenant = tenants_[t];
    // Whoever is greedy stays so until it wants much less: held back it has less, and would have to
    // be found out again and again.
    const double level = (tenant.was_greedy ? 0.5 : 1.0) * seconds * tenant.weight;
    if (tenant.demand * weights > level) {
      // Nobody is, where not even the least demanding one has enough.
      if (least > 0 && t == by_demand_.front()) return;
      tenant.greedy = tenant.greedy || tenant.demand > (tenant.was_greedy ? 0.5 : 1.0) * least;
      continue;
    }
    seconds -= tenant.demand;
    weights -= tenant.weight;
  }
}

double Planner::decode_seconds(bool greedy) const {
  double seconds = 0;
  for (const Tenant& tenant : tenants_) {
    if (tenant.greedy == greedy) seconds += tenant.decode_seconds;
  }
  return seconds;
}

void Planner::plan_greedy() {
  double weights = 0, greedy_weights = 0, used = 0;
  bool may_come = false;
  for (const std::uint32_t t : by_demand_) {
    const Tenant& tenant = tenants_[t];
    weights += tenant.weight;
    may_come |= !tenant.greedy;
    if (!tenant.greedy) continue;
    greedy_weights += tenant.weight;
    used += tenant.used;
  }
  if (greedy_weights == 0) {
    greedy_credit_ = held_back_seconds_ = 0;
    return;
  }
  const bool beside = planned_seconds_ > 0;
  if (!may_come) {
    seconds_left_ = no_limit;
    const double decoding = decode_seconds(false) + decode_seconds(true);
    most_seconds_ = decoding + prefill_seconds(decoding);
  } else if (beside) {
    double share = greedy_weights / weights;
    held_back_seconds_ += cost_.base + planned_seconds_;
    if (used >= share * usable_share * memory_seconds) {
      share = held_back_seconds_ < patience_seconds ? 0 : std::min(share, least_greedy_share);
    }
    share = std::min(share, most_greedy_share);
    // What is too little for a token is kept until it is enough.
    seconds_left_ = greedy_credit_ + (cost_.base + planned_seconds_) * share / (1 - share);
  } else {
    seconds_left_ =
        std::max(limits_.greedy_step_seconds / 2, limits_.greedy_step_seconds - cost_.base);
  }
  if (!beside) held_back_seconds_ = 0;
  const std::size_t before = plan_.chunks.size();
  // Either may use all the time there is: they take turns at being the first.
  if (greedy_decodes_first_) plan_decodes(true);
  plan_prefills(true);
  if (!greedy_decodes_first_) plan_decodes(true);
  if (plan_.chunks.size() > before) greedy_decodes_first_ = !greedy_decodes_first_ || !may_come;
  greedy_credit_ =
      beside && may_come ? std::clamp(seconds_left_, 0.0, limits_.greedy_step_seconds) : 0;
}

}  // namespace plimsoll
