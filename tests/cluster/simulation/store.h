// The cluster's store as routers see it: quota leases, changed by compare-and-swap. It can be out
// of reach of a router, and its replies can be lost.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cluster/lease.h"

namespace plimsoll::simulation {

struct Store {
  explicit Store(std::size_t routers) : reachable(routers, true) {}

  struct Versioned {
    cluster::QuotaLease lease;
    std::uint64_t version = 0;
  };
  std::map<std::string, Versioned> leases;
  std::vector<bool> reachable;  // by router
  std::uint64_t conflicts = 0;

  bool swap(const std::string& tenant, std::uint64_t version, cluster::QuotaLease lease) {
    Versioned& stored = leases[tenant];
    if (stored.version != version) {
      ++conflicts;
      return false;
    }
    stored = {std::move(lease), version + 1};
    return true;
  }
};

}  // namespace plimsoll::simulation
