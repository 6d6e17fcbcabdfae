// Who may hold how many of a gateway's connections. As long as a quarter is free, anybody; then a
// tenant keeps no more than half of what the others leave: one that opens all there are does not
// shut the others out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

#include "engine/base/result.h"

namespace plimsoll {

// The answer to a client whose tenant gets no more.
inline Error too_many_connections_of_the_tenant() {
  return Error(
             ErrorCode::resource_exhausted,
             "the tenant has as many connections as it may while few are left: use them again, or "
             "close some")
      .with_reason("tenant_connections")
      .retry_after(1000);
}

// Thread-safe.
class ConnectionPlaces {
 public:
  explicit ConnectionPlaces(std::uint32_t limit) : limit_(limit) {}

  // A place for one more of the tenant's. `open` connections are there, whoever's, this one too.
  bool take(const std::string& tenant, std::uint32_t open) {
    const std::lock_guard lock(mutex_);
    auto& held = tenants_[tenant];
    const std::uint32_t others = taken_ - held;
    const std::uint32_t free = limit_ - std::min(limit_, open);
    if (free < limit_ / 4 && held + 1 > (limit_ - std::min(limit_, others)) / 2) {
      if (held == 0) tenants_.erase(tenant);
      return false;
    }
    ++held;
    ++taken_;
    return true;
  }

  void give_back(const std::string& tenant) {
    const std::lock_guard lock(mutex_);
    const auto held = tenants_.find(tenant);
    --taken_;
    if (--held->second == 0) tenants_.erase(held);
  }

 private:
  const std::uint32_t limit_;
  std::mutex mutex_;
  std::uint32_t taken_ = 0;
  std::unordered_map<std::string, std::uint32_t> tenants_;  // of those that hold one
};

}  // namespace plimsoll
