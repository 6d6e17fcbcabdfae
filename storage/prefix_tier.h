// The cache on disk as the tier below an engine's prefix tree.
//
// A block's key is a chain of SHA-256 over model, layout and all tokens up to the block's end: a
// block is found only behind the text that it was computed behind. One thread puts what was offered
// into the cache, another one reads what was asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/kv/kv_tier.h"
#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"
#include "storage/tier_budget.h"

namespace plimsoll::storage {

struct PrefixTierOptions {
  std::string model;    // its version
  std::string variant;  // whatever else the bits of a block hang on: how it computes, of what type
  std::uint32_t block_tokens = 16;
  std::uint64_t block_bytes = 0;  // with all its parts
};

// Buffers are charged to prefix_cache, by tenant. The ledger outlives the tier. Its destruction
// puts what was offered into the cache, for a few seconds at most.
std::shared_ptr<KvTier> make_prefix_tier(std::shared_ptr<DiskCache> cache,
                                         PrefixTierOptions options,
                                         std::shared_ptr<TierBudget> budget, Ledger& ledger);

}  // namespace plimsoll::storage
