// What all tiers of a process that lie on its cache on disk may hold in memory together: values on
// their way into the cache, and out of it.
#pragma once

#include <atomic>
#include <cstdint>

namespace plimsoll::storage {

struct TierBudget {
  TierBudget(std::uint64_t offer, std::uint64_t fetch) : offer_bytes(offer), fetch_bytes(fetch) {}
  const std::uint64_t offer_bytes, fetch_bytes;
  std::atomic<std::uint64_t> offered{0}, fetched{0};

  // Takes so many bytes of what `limit` leaves, if it leaves them.
  static bool take(std::atomic<std::uint64_t>& taken, std::uint64_t limit, std::uint64_t bytes) {
    auto before = taken.load();
    do {
      if (before + bytes > limit) return false;
    } while (!taken.compare_exchange_weak(before, before + bytes));
    return true;
  }
};

}  // namespace plimsoll::storage
