// The cache on disk as the tier behind an embedding engine: a vector's key is SHA-256 over model,
// how it computes, and the input's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/loop/embedding_tier.h"
#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"
#include "storage/tier_budget.h"

namespace plimsoll::storage {

struct EmbeddingTierOptions {
  std::string model;         // its version
  std::string variant;       // whatever else the bits of a vector hang on
  std::uint32_t hidden = 0;  // numbers of a vector
};

// What is read is charged to embedding_cache, by tenant. The ledger outlives the tier.
std::shared_ptr<EmbeddingTier> make_embedding_tier(std::shared_ptr<DiskCache> cache,
                                                   EmbeddingTierOptions options,
                                                   std::shared_ptr<TierBudget> budget,
                                                   Ledger& ledger);

}  // namespace plimsoll::storage
