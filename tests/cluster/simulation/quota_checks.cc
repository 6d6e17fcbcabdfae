#include "tests/cluster/simulation/quota_checks.h"

#include <algorithm>

namespace plimsoll::simulation {

void QuotaChecks::Excess::add(double tokens, double rate, double now) {
  amount = std::max(0.0, amount - rate * (now - at)) + tokens;
  at = now;
}

void QuotaChecks::set_tenant(const cluster::Tenant& tenant) {
  const auto [it, is_new] = tenants_.try_emplace(tenant.name);
  it->second.changed = it->second.changed || (!is_new && it->second.quota != tenant.quota);
  it->second.quota = tenant.quota;
  it->second.parts.resize(routers_);
}

void QuotaChecks::share(std::size_t router, const std::string& name, double share, double until) {
  Tenant& tenant = tenants_.at(name);
  Part& part = tenant.parts[router];
  lapse(part);
  if (share > 0 && !part.started) {
    part.started = true;
    tenant.first_shares += share;
  }
  part.share = share;
  part.until = until;
  double sum = 0;
  for (const Part& each : tenant.parts) {
    if (world_.now() < each.until) sum += each.share;
  }
  world_.require(sum <= 1 + 1e-9, "routers hold {:.6f} of the quota of {} at once", sum, name);
}

// What a router still runs when its lease runs out, others may run again.
void QuotaChecks::lapse(Part& part) const {
  if (world_.now() >= part.until) part.uncovered = part.held;
}

void QuotaChecks::admitted(std::size_t router, const std::string& name, const cluster::Ask& ask) {
  Tenant& tenant = tenants_.at(name);
  Part& part = tenant.parts[router];
  world_.require(world_.now() < part.until + 1e-9 && part.share > 0,
                 "router {} starts work of {} without a lease", router, name);
  part.held += ask.sequences;
  tenant.most_at_once = std::max(tenant.most_at_once, ask.sequences);
  tenant.largest_prompt = std::max(tenant.largest_prompt, double{1} * ask.prompt_tokens);
  if (tenant.changed) return;
  const auto check = [&](Excess& excess, double tokens, double rate, double largest,
                         const char* what) {
    if (rate <= 0) return;
    excess.add(tokens, rate, world_.now());
    const double burst = std::max(1.0, rate * tenant.quota.burst_seconds);
    const double most =
        burst * (1 + tenant.first_shares) + static_cast<double>(routers_) * largest + 1e-3;
    world_.require(excess.amount <= most,
                   "{} of {}: {:.1f} more than the rate of {}/s, at most {:.1f} may be", what, name,
                   excess.amount, rate, most);
  };
  check(tenant.requests, 1, tenant.quota.requests_per_second, 1, "requests");
  check(tenant.prompt, ask.prompt_tokens, tenant.quota.prompt_tokens_per_second,
        tenant.largest_prompt, "prompt tokens");
  check_sequences(name, tenant);
}

void QuotaChecks::check_sequences(const std::string& name, Tenant& tenant) {
  std::uint32_t held = 0, uncovered = 0;
  for (Part& part : tenant.parts) {
    lapse(part);
    held += part.held;
    uncovered += part.uncovered;
  }
  // Shares are rounded up, and who holds none may start one request.
  const auto slack = static_cast<std::uint32_t>(routers_) * tenant.most_at_once;
  world_.require(held - uncovered <= tenant.quota.sequences + slack,
                 "{} has {} sequences at once ({} of them beyond a lease), its quota is {}", name,
                 held, uncovered, tenant.quota.sequences);
}

void QuotaChecks::holds(std::size_t router, const std::string& name, std::uint32_t sequences) {
  Part& part = tenants_.at(name).parts[router];
  lapse(part);
  part.held = sequences;
  part.uncovered = std::min(part.uncovered, part.held);
}

void QuotaChecks::router_gone(std::size_t router) {
  for (auto& [name, tenant] : tenants_) tenant.parts[router] = {};
}

}  // namespace plimsoll::simulation
