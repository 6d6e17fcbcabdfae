// The cache on disk of a process that computes, as its configuration wants it.
#pragma once

#include <memory>

#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"
#include "storage/tier_budget.h"

namespace plimsoll {

struct CacheOnDisk {
  std::shared_ptr<storage::DiskCache> cache;
  std::shared_ptr<storage::TierBudget> budget;
};

// `settings.memory_bytes` is divided among all that it keeps in memory. What goes wrong on the disk
// is logged; it stops nobody. Errors: those of CacheKeys::read() and storage::open_disk_cache().
Result<CacheOnDisk> open_cache_on_disk(const CacheSettings& settings, Ledger& ledger);

}  // namespace plimsoll
