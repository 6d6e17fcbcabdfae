#include "actors/quota_leases.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <span>
#include <utility>

#include "actors/router_call.h"

namespace plimsoll {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds router_patience{1000};
// Renewed together, between two looks at who wants one.
constexpr std::size_t at_once = 64;

std::uint64_t system_unix_ms() {
  const auto time = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<milliseconds>(time).count());
}

}  // namespace

struct QuotaLeases::Need {
  std::string tenant;
  bool known = false;
  std::uint32_t sequences = 0;
  cluster::Time since_asked{0};
  double demand = 0, in_use = 0;
};

QuotaLeases::QuotaLeases(Directory& directory, std::function<void()> wake, QuotaLeasesConfig config)
    : directory_(directory), wake_(std::move(wake)), config_(std::move(config)) {
  if (!config_.unix_ms) config_.unix_ms = system_unix_ms;
}

void QuotaLeases::want(const std::string& tenant) {
  {
    const std::lock_guard lock(wanted_mutex_);
    wanted_.insert(tenant);
  }
  wake_();
}

void QuotaLeases::renew(const RouterActor& router) {
  const auto began = Clock::now();
  if (!serve_wanted(router)) return;
  const Names names = due(began);
  for (std::size_t i = 0; i < names.size(); i += at_once) {
    const auto first = names.begin() + static_cast<std::ptrdiff_t>(i);
    const auto count = static_cast<std::ptrdiff_t>(std::min(at_once, names.size() - i));
    if (!serve(router, {first, first + count}, Clock::now()) || !serve_wanted(router)) return;
  }
  const auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - began);
  if (took > milliseconds(config_.lease.duration_ms) && !std::exchange(too_slow_, true)) {
    spdlog::warn(
        "event=quota_leases_slow tenants={} round_ms={} lease_ms={}: shares run out between "
        "their renewals, and requests wait for them",
        names.size(), took.count(), config_.lease.duration_ms);
  }
}

bool QuotaLeases::serve_wanted(const RouterActor& router) {
  std::set<std::string> wanted;
  {
    const std::lock_guard lock(wanted_mutex_);
    wanted.swap(wanted_);
  }
  if (wanted.empty()) return true;
  const auto now = Clock::now();
  for (const auto& tenant : wanted) tenants_[tenant].wanted = now;
  return serve(router, {wanted.begin(), wanted.end()}, now);
}

QuotaLeases::Names QuotaLeases::due(Clock::time_point now) const {
  const auto soon = now + milliseconds(config_.lease.duration_ms * 4 / 5);
  std::vector<std::pair<Clock::time_point, std::string>> by_end;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant.expires < soon) by_end.emplace_back(tenant.expires, name);
  }
  std::ranges::sort(by_end);
  Names names;
  for (auto& [end, name] : by_end) names.push_back(std::move(name));
  return names;
}

// False if nothing more can be done now.
bool QuotaLeases::serve(const RouterActor& router, const Names& names, Clock::time_point at) {
  auto needs = std::make_shared<std::vector<Need>>();
  for (const auto& name : names) needs->emplace_back().tenant = name;
  const auto look = [needs](const cluster::Router& core, cluster::Time now, auto&) {
    const auto& quotas = core.quotas();
    for (auto& need : *needs) {
      need.known = quotas.find(need.tenant) != nullptr;
      need.sequences = quotas.sequences(need.tenant);
      need.since_asked = now - quotas.last_asked(need.tenant);
      need.demand = quotas.demand(need.tenant, now);
      need.in_use = quotas.in_use(need.tenant, now);
    }
  };
  if (!call_router(router, look, router_patience)) return false;

  struct Share {
    std::string tenant;
    double share;
    cluster::Time until;
  };
  std::vector<Share> shares;
  bool reached = true;
  for (const Need& need : *needs) {
    const auto known = tenants_.find(need.tenant);
    if (known == tenants_.end()) continue;  // removed since the round began
    Tenant& tenant = known->second;
    // The steady clock first: what passes between the two is taken off the share.
    const auto now = Clock::now();
    const auto unix_ms = config_.unix_ms();
    const bool idle =
        need.sequences == 0 && need.since_asked > config_.idle && at - tenant.wanted > config_.idle;
    if (!need.known || idle) {
      tenants_.erase(known);
      continue;
    }
    const auto granted =
        directory_.renew_lease(need.tenant, need.demand, need.in_use, unix_ms, config_.lease);
    if (!granted) {
      ++failures_;
      reached = note_failure(need.tenant, tenant, granted.error());
      if (!reached) break;
      continue;
    }
    ++renewals_;
    tenant.unreadable = false;
    if (std::exchange(out_of_reach_, false)) spdlog::info("event=quota_leases_renewed_again");
    tenant.expires = now + milliseconds(granted->until_ms - unix_ms);
    shares.push_back({need.tenant, granted->share, tenant.expires.time_since_epoch()});
  }
  InRouter set{[shares = std::move(shares)](cluster::Router& core, cluster::Time now, auto&) {
    for (const auto& each : shares) {
      core.quotas().set_share(each.tenant, each.share, each.until, now);
    }
  }};
  caf::anon_send(router, std::move(set));
  return reached;
}

// True if it is of this tenant alone.
bool QuotaLeases::note_failure(const std::string& name, Tenant& tenant, const Error& error) {
  if (error.code != ErrorCode::unavailable) {
    if (!std::exchange(tenant.unreadable, true)) {
      spdlog::error("event=quota_lease_unusable tenant={} error=\"{}\"", name, to_string(error));
    }
    return true;
  }
  if (!std::exchange(out_of_reach_, true)) {
    spdlog::warn("event=quota_leases_not_renewed error=\"{}\": shares run out by themselves",
                 to_string(error));
  }
  return false;
}

}  // namespace plimsoll
