// The cache on disk as the tier below an engine's prefix tree.
//
// A block's key is a chain of SHA-256 over model, layout and all tokens up to the block's end: a
// block is found only behind the text that it was computed behind. One thread puts what was offered
// into the cache and reads what was asked for, the latter first.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/kv/kv_tier.h"
#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"

namespace plimsoll::storage {

struct PrefixTierOptions {
  std::string model;    // its version
  std::string variant;  // whatever else the bits of a block hang on: how it computes, of what type
  std::uint32_t block_tokens = 16;
  std::uint64_t block_bytes = 0;
};

// Of all tiers of a process together: blocks on their way into the cache, and out of it.
struct PrefixTierBudget {
  PrefixTierBudget(std::uint64_t offer, std::uint64_t fetch)
      : offer_bytes(offer), fetch_bytes(fetch) {}
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

// Buffers are charged to prefix_cache, by tenant. The ledger outlives the tier. Its destruction
// puts what was offered into the cache, for a few seconds at most.
std::shared_ptr<KvTier> make_prefix_tier(std::shared_ptr<DiskCache> cache,
                                         PrefixTierOptions options,
                                         std::shared_ptr<PrefixTierBudget> budget, Ledger& ledger);

}  // namespace plimsoll::storage
