// The cache on disk from inside: what callers do on their own threads (disk_cache.cc) and what the
// writer's thread does to the disk (disk_cache_writer.cc). The mutex is never held across I/O.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "storage/directory_lock.h"
#include "storage/disk_cache.h"
#include "storage/segment_index.h"
#include "storage/segment_store.h"
#include "storage/spare_buffers.h"

namespace plimsoll::storage {

class DiskCacheImpl final : public DiskCache {
 public:
  DiskCacheImpl(DiskCacheOptions options, Ledger& ledger, std::unique_ptr<DirectoryLock> lock);
  ~DiskCacheImpl() override;

  std::string buffer(std::size_t bytes) override { return spare_.take(bytes); }
  CachePut put(const CacheOwner& owner, CacheKind kind, std::string_view key,
               std::string&& value) override;
  std::optional<std::string> get(const CacheOwner& owner, CacheKind kind,
                                 std::string_view key) override;
  std::size_t get_chain(const CacheOwner& owner, CacheKind kind, std::span<const std::string> keys,
                        const std::function<bool(std::size_t, std::string&&)>& take) override;
  std::size_t chain_length(const CacheOwner& owner, CacheKind kind,
                           std::span<const std::string> keys) override;
  Result<std::uint64_t> purge(const CachePurge& what, std::chrono::milliseconds deadline) override;
  Result<void> flush(std::chrono::milliseconds deadline) override;
  void set_bytes(std::uint64_t bytes) override;
  void set_quota(const TenantId& tenant, std::optional<std::uint64_t> bytes) override;
  Result<void> set_ttl(CacheKind kind, std::chrono::milliseconds ttl) override;
  Result<void> set_ttl(CacheKind kind, const TenantId& tenant,
                       std::optional<std::chrono::milliseconds> ttl) override;
  Result<void> set_key(const TenantId& tenant, std::string key) override;
  ReadCost read_cost() const override;
  DiskCacheStats stats() const override;

 private:
  using Clock = std::chrono::steady_clock;
  using Lock = std::unique_lock<std::mutex>;
  using Reason = std::uint64_t CacheCounts::*;  // why entries went

  // On its way to the disk.
  struct Buffered {
    SegmentOwner owner;
    SegmentEntry entry;
    std::string value;
    std::uint64_t file_bytes = 0;  // that it takes of a segment's file, at most
    Clock::time_point due;
    Charge charge;
  };
  using BufferedEntry = std::shared_ptr<Buffered>;
  struct Queue {
    std::deque<BufferedEntry> entries;  // in order of arrival
    std::uint64_t bytes = 0;
  };
  struct HashHash {
    std::size_t operator()(const CacheHash& hash) const {
      return get_number<std::size_t>(reinterpret_cast<const char*>(hash.bytes.data()));
    }
  };

  // --- Under the mutex ---
  std::int64_t now_ms() const;
  std::chrono::milliseconds ttl_of(const TenantId& tenant, CacheKind kind) const;
  std::uint64_t quota_of(const TenantId& tenant) const;
  std::uint64_t limit_bytes() const;  // of the segments' files
  std::uint64_t target_bytes(const TenantId& tenant) const;
  const std::string& key_of(const TenantId& tenant) const;
  std::uint64_t key_id_of(const TenantId& tenant) const;
  bool expired(const SegmentOwner& owner, const SegmentEntry& entry, std::int64_t now) const;
  bool usable(const Segment& segment, const SegmentEntry& entry, std::int64_t now) const;
  std::optional<SegmentIndex::Found> find(const CacheHash& hash, std::int64_t now) const;
  CacheCounts& counts(const TenantId& tenant, CacheKind kind);
  void wake();
  void forget(const Buffered& entry);  // that is no longer on its way

  std::optional<std::string> look_up(const CacheOwner& owner, CacheKind kind, std::string_view key);
  void found_damage(std::uint64_t segment, const std::string& why);
  void tell(const std::string& trouble) const;

  // Has the writer do it, and waits. Errors: deadline_exceeded.
  using Command = std::function<void(Lock&)>;
  Result<void> have_done(Command what, std::chrono::milliseconds deadline);

  // --- On the writer's thread, with the mutex held in between ---
  void run();
  void measure(Lock& lock);
  bool work(Lock& lock);
  void open_store(Lock& lock);
  void load(Lock& lock, SegmentStore& store);
  void replace_store(Lock& lock, const std::string& why);
  void delete_asides(Lock& lock);
  Queue* next_due(Clock::time_point now, const SegmentOwner** owner);
  void seal(Lock& lock, const SegmentOwner& owner, Queue& queue);
  Result<std::uint64_t> write_segment(const Segment& segment,
                                      const std::vector<BufferedEntry>& entries,
                                      const std::string& key);
  bool make_room(Lock& lock, const TenantId& tenant, std::uint64_t bytes, std::uint64_t memory);
  bool drop(Lock& lock, std::vector<std::uint64_t> segments, Reason reason);
  bool rewrite(Lock& lock, const std::vector<std::uint64_t>& segments,
               const SegmentIndex::Wanted& keep, Reason reason);
  void sweep(Lock& lock);
  void keep_bounds(Lock& lock);
  std::uint64_t purge_now(Lock& lock, const CachePurge& what);
  void drop_other_keys(Lock& lock, const TenantId& tenant);
  void failed(const std::string& why);
  void charge();

  DiskCacheOptions options_;
  Ledger& ledger_;
  std::unique_ptr<DirectoryLock> directory_lock_;

  mutable std::mutex mutex_;
  std::condition_variable wake_writer_;
  std::condition_variable read_ended_;
  std::shared_ptr<SegmentStore> store_;  // null: none could be opened
  std::uint64_t store_number_ = 0;
  SegmentIndex index_;
  std::uint64_t next_segment_ = 1;
  std::map<SegmentOwner, Queue> queues_;
  std::unordered_map<CacheHash, BufferedEntry, HashHash> buffered_;
  std::uint64_t buffered_bytes_ = 0;
  SpareBuffers spare_;  // with what is buffered never more than the buffer's bound
  std::map<TenantId, std::uint64_t> buffered_of_;
  std::map<TenantId, std::array<CacheCounts, cache_kind_count>> counts_;
  std::map<TenantId, std::uint64_t> quotas_;
  mutable std::map<TenantId, std::string> derived_keys_;
  std::map<std::pair<TenantId, CacheKind>, std::chrono::milliseconds> tenant_ttls_;
  std::set<std::uint64_t> reads_;  // from the disk, under way
  std::uint64_t last_read_ = 0;
  ReadCost measured_cost_, recent_cost_;
  Clock::time_point cost_read_at_{};    // when the last read told of it
  std::vector<std::uint64_t> damaged_;  // segments to drop
  std::deque<Command> commands_;
  std::string trouble_;
  Clock::time_point retry_at_{};
  Clock::time_point sweep_at_{};
  Clock::time_point stop_at_ = Clock::time_point::max();
  bool stopping_ = false;
  bool woken_ = false;

  int failures_ = 0;    // writes, one after another, the disk not being full
  std::string record_;  // the writer's: of the entry that is being written
  Charge index_charge_, table_charge_, record_charge_;
  std::thread writer_;
};

}  // namespace plimsoll::storage
