// What an operator asks of a node's cache on disk, and what the node answers. What lasts of it, the
// quotas and TTLs of tenants, is in their records, and comes to the nodes from their routers.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cluster/tenant.h"
#include "engine/base/result.h"
#include "storage/disk_cache.h"

namespace plimsoll {

// What there is of one kind of one tenant.
struct CacheRow {
  std::string tenant;
  storage::CacheKind kind = storage::CacheKind::prefix;
  std::uint64_t quota_bytes = 0;  // of the tenant, all kinds together
  std::chrono::milliseconds ttl{0};
  storage::CacheCounts counts;
};
struct CacheReport {
  std::uint64_t bytes = 0, limit_bytes = 0;                            // on disk
  std::uint64_t buffered_bytes = 0, index_bytes = 0, table_bytes = 0;  // in memory
  std::string trouble;  // why nothing is written at present; empty: all is well
  std::vector<CacheRow> rows;
};

struct LookAtCache {};
// For tenants without a TTL of their own, until the process ends. Absent: as it is configured.
struct SetCacheTtl {
  storage::CacheKind kind = storage::CacheKind::prefix;
  std::optional<std::chrono::milliseconds> ttl;
};
using CacheCall = std::variant<LookAtCache, storage::CachePurge, SetCacheTtl>;

struct CacheAnswer {
  std::optional<Error> error;
  std::uint64_t purged_entries = 0;  // of a purge
  CacheReport report;                // of a look
};
CacheAnswer refusal(Error error);
struct NodeCacheAnswer {
  std::string node;
  CacheAnswer answer;
};

// How long a purge may wait for the disk; and then the answer, for its way.
inline constexpr std::chrono::seconds purge_deadline{20}, cache_call_patience{25};

// Tenants whose policy is not what a node is configured with, and what it is.
using CachePolicies = std::map<std::string, cluster::CachePolicy>;

}  // namespace plimsoll
