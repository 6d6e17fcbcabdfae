// A cache on disk without a disk: remembers what it was asked, and has fixed figures.
#pragma once

#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "storage/disk_cache.h"

namespace plimsoll::testing {

class FakeDiskCache final : public storage::DiskCache {
 public:
  // In order: "quota acme 5", "ttl prefix acme default".
  std::vector<std::string> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  std::optional<Error> purge_error;  // set before the first call

  std::string buffer(std::size_t) override { return {}; }
  storage::CachePut put(const storage::CacheOwner&, storage::CacheKind, std::string_view,
                        std::string&&) override {
    return storage::CachePut::dropped;
  }
  std::optional<std::string> get(const storage::CacheOwner&, storage::CacheKind,
                                 std::string_view) override {
    return std::nullopt;
  }
  std::size_t get_chain(const storage::CacheOwner&, storage::CacheKind,
                        std::span<const std::string>,
                        const std::function<bool(std::size_t, std::string&&)>&) override {
    return 0;
  }
  std::size_t chain_length(const storage::CacheOwner&, storage::CacheKind,
                           std::span<const std::string>) override {
    return 0;
  }
  Result<std::uint64_t> purge(const storage::CachePurge& what, std::chrono::milliseconds) override {
    note("purge " + (what.tenant ? what.tenant->get() : std::string("all")) +
         (what.kind ? " " + std::string(to_string(*what.kind)) : "") + " " +
         std::to_string(what.older_than.count()));
    if (purge_error) return fail(*purge_error);
    return what.tenant && what.tenant->get() == "nobody" ? 0U : 7U;
  }
  Result<void> flush(std::chrono::milliseconds) override { return {}; }
  void set_bytes(std::uint64_t) override {}
  void set_quota(const TenantId& tenant, std::optional<std::uint64_t> bytes) override {
    note("quota " + tenant.get() + " " + (bytes ? std::to_string(*bytes) : "default"));
  }
  Result<void> set_ttl(storage::CacheKind kind, std::chrono::milliseconds ttl) override {
    if (ttl > storage::longest_cache_ttl) return fail(ErrorCode::invalid_argument, "too long");
    note("ttl " + std::string(to_string(kind)) + " " + std::to_string(ttl.count()));
    return {};
  }
  Result<void> set_ttl(storage::CacheKind kind, const TenantId& tenant,
                       std::optional<std::chrono::milliseconds> ttl) override {
    if (ttl || set_.contains({tenant, kind})) {
      note("ttl " + std::string(to_string(kind)) + " " + tenant.get() + " " +
           (ttl ? std::to_string(ttl->count()) : "default"));
    }
    ttl ? (void)set_.insert({tenant, kind}) : (void)set_.erase({tenant, kind});
    return {};
  }
  Result<void> set_key(const TenantId&, std::string) override { return {}; }
  storage::ReadCost read_cost() const override { return {}; }
  storage::DiskCacheStats stats() const override {
    storage::DiskCacheStats stats;
    stats.bytes = 100;
    stats.limit_bytes = 1000;
    stats.buffered_bytes = 10;
    stats.index_bytes = 20;
    stats.table_bytes = 30;
    stats.trouble = "the disk is full";
    auto& prefixes = stats.tenants[TenantId("acme")][0];
    prefixes.bytes = 100;
    prefixes.entries = 4;
    prefixes.hits_total = 3;
    prefixes.misses_total = 1;
    prefixes.evicted_total = 5;
    stats.tenants[TenantId("globex")][2].refused_total = 1;
    return stats;
  }

 private:
  void note(std::string call) {
    const std::lock_guard lock(mutex_);
    asked_.push_back(std::move(call));
  }

  mutable std::mutex mutex_;
  std::vector<std::string> asked_;
  std::set<std::pair<TenantId, storage::CacheKind>> set_;
};

}  // namespace plimsoll::testing
