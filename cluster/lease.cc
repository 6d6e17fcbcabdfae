#include "cluster/lease.h"

#include <algorithm>
#include <cmath>

namespace plimsoll::cluster {
namespace {

// All floors together take no more than this part of the quota, however many routers there are.
constexpr double floors_in_all = 0.25;
constexpr double least_share = 1e-6;  // less is rounding

// What each router should have in the end: in proportion to demand where all of it fits, else
// max-min fair (nobody gets more than it wants, what is left is divided equally).
double target(const std::vector<QuotaShare>& shares, std::size_t mine, const LeaseConfig& config) {
  const auto n = static_cast<double>(shares.size());
  const double floor = std::min(config.floor, floors_in_all / n);
  std::vector<double> wanted;
  double sum = 0;
  for (const auto& share : shares) {
    wanted.push_back(std::max(share.demand, floor));
    sum += wanted.back();
  }
  const double own = wanted[mine];
  const double all = 1 - config.reserve;
  if (sum <= all) return own / sum * all;
  std::ranges::sort(wanted);
  double left = all;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double equal = left / static_cast<double>(wanted.size() - i);
    if (wanted[i] >= equal) return std::min(own, equal);
    left -= wanted[i];
  }
  return own;
}

}  // namespace

QuotaLease renew(QuotaLease lease, const std::string& router, double demand, double in_use,
                 std::uint64_t now_ms, const LeaseConfig& config) {
  auto& shares = lease.shares;
  std::erase_if(shares, [&](const QuotaShare& share) {
    return share.router != router && share.expires_ms + config.clock_skew_ms <= now_ms;
  });
  auto own = std::ranges::find(shares, router, &QuotaShare::router);
  if (own == shares.end()) own = shares.insert(own, {.router = router});
  own->demand = std::isfinite(demand) ? std::max(demand, 0.0) : 0.0;
  own->expires_ms = now_ms + config.duration_ms;
  double free = 1 + own->share;
  for (const auto& share : shares) free -= share.share;
  const auto mine = static_cast<std::size_t>(own - shares.begin());
  const double kept = std::min(in_use, own->share);  // others may have taken what it let expire
  own->share = std::clamp(target(shares, mine, config), 0.0, std::max(free, 0.0));
  if (own->share < least_share) own->share = 0;
  if (kept > own->share) own->share = kept;
  return lease;
}

Granted granted(const QuotaLease& lease, const std::string& router, const LeaseConfig& config) {
  const auto own = std::ranges::find(lease.shares, router, &QuotaShare::router);
  if (own == lease.shares.end()) return {};
  const auto mine = static_cast<std::size_t>(own - lease.shares.begin());
  return {std::min(own->share, target(lease.shares, mine, config)), own->expires_ms};
}

}  // namespace plimsoll::cluster
