// A bounded cache on disk of what is dear to compute and safe to lose: KV blocks of prefixes,
// embeddings, token lists. Not the place for anything that must be found again.
//
// What it promises:
//   - The directory never holds more than `bytes`, a tenant never more than its quota. Room is made
//     before anything is written: a tenant over its quota loses its own oldest entries; where the
//     whole is full, whoever holds most does.
//   - Nothing expired, damaged or of another salt is ever served. Each entry carries its expiry and
//   a
//     checksum. Bytes of what has expired are off the disk within `reclaim_within`.
//   - A write never waits for the disk: it is buffered, bounded and charged, or dropped and
//   counted.
//   - Damage, a full disk or a store of another version costs what is cached, never the service.
//
// Thread-safe. get() and what reads many wait for the disk, and so do purge() and flush(): never
// call them from a thread that others wait for.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/memory/ledger.h"
#include "storage/cache_record.h"

namespace rocksdb {
class Env;
}

namespace plimsoll::storage {

using CacheTtls = std::array<std::chrono::milliseconds, cache_kind_count>;
// An entry that outlives this is no cache.
inline constexpr std::chrono::hours longest_cache_ttl{30 * 24};

struct DiskCacheOptions {
  std::filesystem::path directory;
  std::uint64_t bytes = 4_GiB;                     // of all files in the directory; 8 MiB or more
  std::uint64_t tenant_bytes = ~std::uint64_t{0};  // of a tenant without a quota of its own
  std::uint64_t entry_bytes = 16_MiB;              // a larger entry is refused
  std::uint64_t buffer_bytes = 32_MiB;             // entries on their way to the disk
  std::uint64_t index_bytes = 32_MiB;              // what is known of the entries, in memory
  std::uint64_t table_bytes = 8_MiB;               // RocksDB's block cache and table readers
  CacheTtls ttl{std::chrono::hours(24), std::chrono::hours(24), std::chrono::hours(24)};
  std::chrono::milliseconds flush_after{5'000};       // an entry is on the disk after this at most
  std::chrono::milliseconds reclaim_within{600'000};  // from an entry's expiry to its bytes' end
  std::chrono::milliseconds retry_after{10'000};      // with the next write, when one has failed
  std::map<TenantId, std::string> keys;               // 32 bytes each: entries are encrypted
  // The key of a tenant that is not among them, the same each time; null: there are no others.
  std::function<std::string(const TenantId&)> derive_key;
  // Called with what was found damaged or could not be written, on any thread; must not block.
  std::function<void(const std::string&)> on_trouble;
  std::function<std::chrono::system_clock::time_point()> now = std::chrono::system_clock::now;
  rocksdb::Env* env = nullptr;  // another file system, for tests; outlives the cache
};

// Whose an entry is: bytes count for the tenant, and only who has the same salt finds it.
struct CacheOwner {
  TenantId tenant;
  std::string salt;  // of the tenant, or of a group of tenants that share
};

enum class CachePut : std::uint8_t {
  accepted,  // buffered; readable at once
  known,     // there already, as long as this or longer
  refused,   // larger than a cap, or nothing of this kind or tenant is stored
  dropped,   // the buffer is full, or the disk takes nothing at present
};

struct CacheCounts {
  std::uint64_t bytes = 0;    // on disk, the files' whole sizes
  std::uint64_t entries = 0;  // on disk
  std::uint64_t hits_total = 0, misses_total = 0;
  std::uint64_t evicted_total = 0, expired_total = 0, purged_total = 0, damaged_total = 0;
  std::uint64_t refused_total = 0, dropped_total = 0;
  std::uint64_t accepted_bytes_total = 0, written_bytes_total = 0;
};
struct DiskCacheStats {
  std::map<TenantId, std::array<CacheCounts, cache_kind_count>> tenants;
  std::uint64_t bytes = 0, limit_bytes = 0;  // on disk; entries only, and what they may come to
  std::uint64_t buffered_bytes = 0, index_bytes = 0, table_bytes = 0;  // in memory
  std::uint64_t segments = 0;
  std::string trouble;  // why nothing is written at present; empty: all is well
};

struct CachePurge {
  std::optional<TenantId> tenant;  // absent: all
  std::optional<CacheKind> kind;
  std::chrono::milliseconds older_than{0};
};

struct ReadCost {
  static constexpr std::uint64_t least_bytes = 64_KiB;  // a smaller read takes as long as this
  double seconds_per_byte = 0;
  // Of one value.
  double seconds(std::uint64_t bytes) const {
    return seconds_per_byte * static_cast<double>(std::max(bytes, least_bytes));
  }
};

class DiskCache {
 public:
  virtual ~DiskCache() = default;  // writes what is buffered, for a few seconds at most

  // An empty string with room for a value of so many bytes: of one that has been written, if it can
  // be had, whose pages are there already.
  virtual std::string buffer(std::size_t bytes) = 0;
  // Moves from the value only if it is accepted.
  virtual CachePut put(const CacheOwner& owner, CacheKind kind, std::string_view key,
                       std::string&& value) = 0;
  CachePut put(const CacheOwner& owner, CacheKind kind, std::string_view key,
               const std::string& value) {
    return put(owner, kind, key, std::string(value));
  }
  virtual std::optional<std::string> get(const CacheOwner& owner, CacheKind kind,
                                         std::string_view key) = 0;
  // The values of keys[0], keys[1], ... up to the first that is not there, one after another, as
  // long as `take` returns true. Returns how many were taken.
  virtual std::size_t get_chain(const CacheOwner& owner, CacheKind kind,
                                std::span<const std::string> keys,
                                const std::function<bool(std::size_t, std::string&&)>& take) = 0;
  // How many of the keys, from the first on, get_chain() would look for on disk or in the buffer;
  // the others count as misses. In memory only: never waits for the disk.
  virtual std::size_t chain_length(const CacheOwner& owner, CacheKind kind,
                                   std::span<const std::string> keys) = 0;

  // Removes, from buffer and disk: when it returns, the bytes are in no file of the cache. Returns
  // how many entries went. Errors: deadline_exceeded (the disk is slow: it goes on).
  virtual Result<std::uint64_t> purge(const CachePurge& what,
                                      std::chrono::milliseconds deadline) = 0;
  // When it returns, all that was accepted before is on the disk, or was dropped.
  virtual Result<void> flush(std::chrono::milliseconds deadline) = 0;

  // At once for what is asked and put from now on; what is over a new bound goes within a second.
  // A quota of 0 or a TTL of 0: nothing is stored. Absent: the default again.
  virtual void set_bytes(std::uint64_t bytes) = 0;
  virtual void set_quota(const TenantId& tenant, std::optional<std::uint64_t> bytes) = 0;
  // A shorter TTL holds for what is stored already, a longer one does not.
  // Errors: invalid_argument (negative, or over longest_cache_ttl).
  virtual Result<void> set_ttl(CacheKind kind, std::chrono::milliseconds ttl) = 0;
  virtual Result<void> set_ttl(CacheKind kind, const TenantId& tenant,
                               std::optional<std::chrono::milliseconds> ttl) = 0;
  // 32 bytes, or empty: plain, or as it is derived. What is stored otherwise, plain or under
  // another key, goes.
  virtual Result<void> set_key(const TenantId& tenant, std::string key) = 0;

  // What it takes to read, by a file that is written and read at the start, then by the reads of
  // the last half minute. In memory only.
  virtual ReadCost read_cost() const = 0;
  virtual DiskCacheStats stats() const = 0;
};

// Errors: invalid_argument (an option), unavailable (in use by another process), internal (the
// directory cannot be made). Damage is none: it is reported, moved aside and deleted.
Result<std::unique_ptr<DiskCache>> open_disk_cache(DiskCacheOptions options, Ledger& ledger);

}  // namespace plimsoll::storage
