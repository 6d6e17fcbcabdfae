// A node's cache on disk as operators see and set it: what its configuration, its tenants' records
// and its operator say of quotas and TTLs, put together.
//
// Thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "actors/cache_calls.h"
#include "actors/server_config.h"
#include "storage/disk_cache.h"

namespace plimsoll {

class NodeCache {
 public:
  NodeCache(std::shared_ptr<storage::DiskCache> cache, const CacheSettings& settings);

  // Waits for the disk where it is a purge, for purge_deadline at most; no other call does.
  CacheAnswer answer(const CacheCall& call);
  // The same, of what there is when `after` is over. Errors, before anything is removed:
  // deadline_exceeded (it is not).
  CacheAnswer purge(const storage::CachePurge& what,
                    const std::vector<std::shared_future<void>>& after,
                    std::chrono::milliseconds deadline = purge_deadline);
  // All that are known from now on; who is not among them has what the node is configured with.
  void set_policies(const CachePolicies& policies);

 private:
  CacheAnswer run(const LookAtCache&);
  CacheAnswer run(const storage::CachePurge& what);
  CacheAnswer run(const SetCacheTtl& order);

  const std::shared_ptr<storage::DiskCache> cache_;
  const std::uint64_t tenant_bytes_;  // as configured, as is the next
  const std::chrono::milliseconds ttl_;
  std::mutex mutex_;
  std::array<std::optional<std::chrono::milliseconds>, storage::cache_kind_count> set_ttl_;
  CachePolicies policies_;
};

}  // namespace plimsoll
