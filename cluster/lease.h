// How routers divide a tenant's quota: each holds a share until a moment, all shares together are
// never over 1. The record is changed by compare-and-swap in the cluster's store; this is the pure
// step in between. Clocks of routers may differ by `clock_skew`: a holder stops using its share
// that much before the others may take it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll::cluster {

struct QuotaShare {
  std::string router;
  double share = 0;              // kept for it; it may be granted less
  double demand = 0;             // what it would use, as a share of the quota
  std::uint64_t expires_ms = 0;  // Unix time
  bool operator==(const QuotaShare&) const = default;
};
// One tenant's, as it is stored.
struct QuotaLease {
  std::vector<QuotaShare> shares;
  bool operator==(const QuotaLease&) const = default;
};

struct LeaseConfig {
  std::uint64_t duration_ms = 3000;  // renewed at a third of it
  std::uint64_t clock_skew_ms = 500;
  // Least share of a router that is alive, so that a new client gets in; all of them together take
  // no more than a quarter.
  double floor = 0.05;
  double reserve = 0.05;  // kept free, so that a router that is new to the tenant starts at once
};

// `router` renews its share at `now_ms`, with its demand. Expired shares of others are freed (after
// the skew), live ones are never touched: a router gives up only its own surplus, at its own
// renewals, and takes only what is free. Converges in a few rounds to shares in proportion to
// demand where all of it fits, to max-min fair ones where it does not.
//
// What is given up may be taken as soon as it is stored, which its holder learns later, or never.
// So none of `in_use` is given up: what the holder acts on until it knows better
// (Quotas::in_use()). It gets a smaller share granted, uses that, and frees the rest the next time.
QuotaLease renew(QuotaLease lease, const std::string& router, double demand, double in_use,
                 std::uint64_t now_ms, const LeaseConfig& config = {});
// What `router` may use of the lease now, and until when by its own clock.
struct Granted {
  double share = 0;
  std::uint64_t until_ms = 0;
};
Granted granted(const QuotaLease& lease, const std::string& router, const LeaseConfig& config = {});

}  // namespace plimsoll::cluster
