// What happens to the cache's disk, all of it on one thread: entries are written in segments, room
// is made before, what has expired goes, small segments become larger ones, tenants are purged.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/memory/process_memory.h"
#include "storage/disk_cache_impl.h"

namespace plimsoll::storage {
namespace {

// A sweep, and a segment that is written anew for the sake of what has expired in it, wait for a
// part of the time within which space is to be had back.
constexpr int sweeps_of_reclaim = 4;
constexpr int rewrite_of_reclaim = 2;
constexpr std::chrono::milliseconds least_sweep{20}, longest_sweep{15'000};
constexpr int merges_of_sweep = 4;
constexpr std::chrono::seconds read_wait{5};     // for reads of what is purged
constexpr std::uint64_t segments_of_index = 64;  // at least
constexpr int probe_blocks = 4;
constexpr std::size_t probe_block_bytes = 128 << 10;
constexpr int lower_priority = 10;
constexpr std::chrono::seconds spare_time{10};  // that a buffer waits for its next value
constexpr int most_failures = 3;                // writes, one after another

bool by_hash(const SegmentEntry& a, const SegmentEntry& b) { return a.hash < b.hash; }

}  // namespace

void DiskCacheImpl::failed(const std::string& why) {
  trouble_ = why;
  retry_at_ = Clock::now() + options_.retry_after;
}

void DiskCacheImpl::charge() {
  index_charge_.resize(index_.total().memory_bytes);
  table_charge_.resize(store_ != nullptr ? store_->memory_bytes() : 0);
  record_charge_.resize(record_.capacity());
}

// --- The loop ---

void DiskCacheImpl::run() {
  // Behind everything that somebody waits for.
  setpriority(PRIO_PROCESS, 0, lower_priority);
  // RocksDB makes a buffer of a record's size for each record.
  allocate_apart();
  Lock lock(mutex_);
  delete_asides(lock);
  measure(lock);
  while (work(lock)) {
  }
}

// What reading costs where the page cache does not help.
void DiskCacheImpl::measure(Lock& lock) {
  lock.unlock();
  const auto path = options_.directory / "probe";
  const std::string block(probe_block_bytes, 'p');
  std::string read(probe_block_bytes, '\0');
  double seconds = 0;
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  bool good = file >= 0;
  for (int i = 0; good && i < probe_blocks; ++i) {
    good = ::write(file, block.data(), block.size()) == static_cast<ssize_t>(block.size());
  }
  good = good && fsync(file) == 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0;
  const auto begin = Clock::now();
  for (int i = 0; good && i < probe_blocks; ++i) {
    good = pread(file, read.data(), read.size(), static_cast<off_t>(i * read.size())) ==
           static_cast<ssize_t>(read.size());
  }
  seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (file >= 0) close(file);
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  lock.lock();
  if (good) measured_cost_.seconds_per_byte = seconds / (probe_blocks * probe_block_bytes);
}

// One thing of what is to be done, or waits for one. False: it is to end.
bool DiskCacheImpl::work(Lock& lock) {
  if (!commands_.empty()) {
    const auto next = std::move(commands_.front());
    commands_.pop_front();
    next(lock);
    return true;
  }
  const auto now = Clock::now();
  if (store_ == nullptr) {
    if (stopping_) return false;
    if (now >= retry_at_) {
      open_store(lock);
      delete_asides(lock);
      return true;
    }
  } else {
    if (!damaged_.empty()) {
      drop(lock, std::exchange(damaged_, {}), &CacheCounts::damaged_total);
      return true;
    }
    const SegmentOwner* owner = nullptr;
    if (auto* queue = next_due(now, &owner)) {
      seal(lock, SegmentOwner(*owner), *queue);
      return true;
    }
    if (stopping_) return false;
    if (now >= sweep_at_) {
      sweep(lock);
      return true;
    }
  }
  auto until = store_ != nullptr ? sweep_at_ : retry_at_;
  for (const auto& [of, queue] : queues_) {
    until = std::min(until, std::max(queue.entries.front()->due, retry_at_));
  }
  wake_writer_.wait_until(lock, until, [this] { return woken_; });
  woken_ = false;
  return true;
}

// The queue that is to be written now, if one is.
DiskCacheImpl::Queue* DiskCacheImpl::next_due(Clock::time_point now, const SegmentOwner** owner) {
  if (now < retry_at_ || now >= stop_at_) return nullptr;
  Queue* largest = nullptr;
  for (auto& [of, queue] : queues_) {
    if (stopping_ || queue.entries.front()->due <= now || queue.bytes >= target_bytes(of.tenant)) {
      *owner = &of;
      return &queue;
    }
    if (largest == nullptr || queue.bytes > largest->bytes) {
      largest = &queue;
      *owner = &of;
    }
  }
  return buffered_bytes_ > options_.buffer_bytes / 2 ? largest : nullptr;
}

void DiskCacheImpl::forget(const Buffered& entry) {
  const auto held = entry.charge.bytes();
  buffered_bytes_ -= held;
  auto of_tenant = buffered_of_.find(entry.owner.tenant);
  of_tenant->second -= held;
  if (of_tenant->second == 0) buffered_of_.erase(of_tenant);
  buffered_.erase(entry.entry.hash);
}

// Writes the oldest entries of the queue as one segment, or drops them.
void DiskCacheImpl::seal(Lock& lock, const SegmentOwner& owner, Queue& queue) {
  const auto key = key_of(owner.tenant);
  const auto target = target_bytes(owner.tenant);
  std::vector<BufferedEntry> entries;
  Segment segment;
  segment.id = next_segment_++;
  segment.owner = owner;
  segment.key_id = key_id_of(owner.tenant);
  std::uint64_t taken = 0, records = 0;
  while (!queue.entries.empty() &&
         (entries.empty() || (taken + queue.entries.front()->file_bytes <= target &&
                              segment.memory_bytes() < options_.index_bytes / segments_of_index))) {
    auto entry = std::move(queue.entries.front());
    queue.entries.pop_front();
    taken += entry->file_bytes;
    auto& listed = segment.entries.emplace_back(entry->entry);
    listed.bytes = static_cast<std::uint32_t>(record_header_bytes + entry->value.size() +
                                              (key.empty() ? 0 : encryption_bytes));
    records += listed.bytes;
    entries.push_back(std::move(entry));
  }
  queue.bytes -= taken;
  if (queue.entries.empty()) queues_.erase(owner);
  std::ranges::sort(segment.entries, by_hash);
  std::ranges::sort(entries, {}, [](const auto& entry) { return entry->entry.hash; });

  const auto bytes = SegmentStore::file_bytes(entries.size(), records,
                                              owner.tenant.get().size() + owner.salt.size());
  Result<std::uint64_t> written = fail(ErrorCode::resource_exhausted, "the cache has no room");
  const bool room =
      store_ != nullptr && make_room(lock, owner.tenant, bytes, segment.memory_bytes());
  if (room) {
    lock.unlock();
    written = write_segment(segment, entries, key);
    lock.lock();
  }
  for (const auto& entry : entries) {
    forget(*entry);
    if (buffered_bytes_ + spare_.bytes() + entry->value.capacity() <= options_.buffer_bytes) {
      spare_.give(std::move(entry->value));
    }
  }
  auto& tenant = counts(owner.tenant, owner.kind);
  if (written) {
    segment.file_bytes = *written;
    tenant.written_bytes_total += *written;
    index_.add(std::move(segment));
    trouble_.clear();
    failures_ = 0;
  } else {
    tenant.dropped_total += entries.size();
    if (room) {
      failed(written.error().message);
      lock.unlock();
      tell("nothing can be written: " + written.error().message);
      lock.lock();
      // A full disk may have room again; what else fails often does so for good.
      if (written.error().code != ErrorCode::resource_exhausted && ++failures_ == most_failures) {
        failures_ = 0;
        replace_store(lock, written.error().message);
      }
    }
  }
  charge();
}

Result<std::uint64_t> DiskCacheImpl::write_segment(const Segment& segment,
                                                   const std::vector<BufferedEntry>& entries,
                                                   const std::string& key) {
  auto writer = store_->write(segment);
  if (!writer) return tl::unexpected(writer.error());
  for (const auto& entry : entries) {
    const auto& listed = entry->entry;
    const RecordHeader header{segment.owner.kind, listed.ttl_ms, listed.created_ms};
    if (auto good = encode_record(listed.hash, header, entry->value, key, record_); !good) {
      return tl::unexpected(good.error());
    }
    if (auto added = writer->add(listed.hash, record_); !added)
      return tl::unexpected(added.error());
  }
  return writer->finish();
}

// --- Bounds ---

// Drops what has to go for so many bytes more of that tenant's, on disk and in the index.
bool DiskCacheImpl::make_room(Lock& lock, const TenantId& tenant, std::uint64_t bytes,
                              std::uint64_t memory) {
  std::vector<std::uint64_t> gone;
  const auto take = [&](std::uint64_t victim) {
    const auto segment = index_.remove(victim);
    if (!segment) return false;
    counts(segment->owner.tenant, segment->owner.kind).evicted_total += segment->entries.size();
    gone.push_back(victim);
    return true;
  };
  using Held = SegmentIndex::Held;
  bool room = true;
  while (room && index_.of(tenant).bytes + bytes > quota_of(tenant)) {
    room = take(index_.victim_of(tenant, &Held::bytes));
  }
  while (room && index_.total().bytes + bytes > limit_bytes()) {
    room = take(index_.victim(&Held::bytes));
  }
  while (room && index_.total().memory_bytes + memory > options_.index_bytes) {
    room = take(index_.victim(&Held::memory_bytes));
  }
  return drop(lock, std::move(gone), &CacheCounts::evicted_total) && room;
}

// From index and disk. False: the store had to be given up.
bool DiskCacheImpl::drop(Lock& lock, std::vector<std::uint64_t> segments, Reason reason) {
  if (segments.empty()) return true;
  for (const auto id : segments) {
    if (const auto gone = index_.remove(id)) {
      counts(gone->owner.tenant, gone->owner.kind).*reason += gone->entries.size();
    }
  }
  const auto store = store_;
  if (store == nullptr) return false;
  const auto reads_before = last_read_;
  const bool reading = !reads_.empty();
  lock.unlock();
  const auto dropped = store->drop(segments);
  lock.lock();
  if (dropped && (reading || last_read_ != reads_before)) {
    // A file goes with its last reader, and then not by itself.
    const auto last = last_read_;
    read_ended_.wait_for(lock, read_wait, [&] { return reads_.empty() || *reads_.begin() > last; });
    lock.unlock();
    store->clean();
    lock.lock();
  }
  charge();
  if (dropped) return true;
  replace_store(lock, dropped.error().message);
  return false;
}

void DiskCacheImpl::keep_bounds(Lock& lock) {
  for (const auto& tenant : index_.tenants()) {
    if (!make_room(lock, tenant, 0, 0)) return;
  }
}

// --- What is written anew ---

// Makes one segment of what is to be kept of some of one owner; the rest goes for that reason.
// False: it could not, and they are as they were, save those that are damaged.
bool DiskCacheImpl::rewrite(Lock& lock, const std::vector<std::uint64_t>& segments,
                            const SegmentIndex::Wanted& keep, Reason reason) {
  struct Kept {
    SegmentEntry entry;
    std::uint64_t from;
  };
  std::vector<Kept> kept;
  Segment merged;
  std::uint64_t before = 0;
  for (const auto id : segments) {
    const auto* segment = index_.find(id);
    if (segment == nullptr) return false;
    merged.owner = segment->owner;
    merged.key_id = segment->key_id;
    before += segment->entries.size();
    for (const auto& entry : segment->entries) {
      if (keep(*segment, entry)) kept.push_back({entry, id});
    }
  }
  // Of the same entry, the one that was written last.
  std::ranges::sort(kept, [](const Kept& a, const Kept& b) {
    return std::pair(a.entry.hash, -a.entry.created_ms) <
           std::pair(b.entry.hash, -b.entry.created_ms);
  });
  const auto twice = std::ranges::unique(kept, {}, [](const Kept& k) { return k.entry.hash; });
  const auto superseded = static_cast<std::uint64_t>(twice.size());
  kept.erase(twice.begin(), twice.end());
  if (kept.empty()) return drop(lock, segments, reason);

  merged.id = next_segment_++;
  for (const auto& k : kept) merged.entries.push_back(k.entry);
  const auto store = store_;
  std::uint64_t damaged = 0;
  lock.unlock();
  auto written = [&]() -> Result<std::uint64_t> {
    auto writer = store->write(merged);
    if (!writer) return tl::unexpected(writer.error());
    for (const auto& k : kept) {
      auto record = store->read(k.from, &k.entry.hash);
      if (record) {
        if (auto good = verify_record(k.entry.hash, merged.owner.kind, *record); !good) {
          record = tl::unexpected(good.error());
        }
      }
      if (!record) {
        damaged = k.from;
        return tl::unexpected(record.error());
      }
      if (auto added = writer->add(k.entry.hash, *record); !added) {
        return tl::unexpected(added.error());
      }
    }
    return writer->finish();
  }();
  if (damaged != 0) found_damage(damaged, written.error().message);
  lock.lock();
  if (!written) return false;
  auto& tenant = counts(merged.owner.tenant, merged.owner.kind);
  tenant.*reason += before - superseded - kept.size();
  tenant.written_bytes_total += *written;
  merged.file_bytes = *written;
  for (const auto id : segments) index_.remove(id);
  index_.add(std::move(merged));
  return drop(lock, segments, reason);
}

void DiskCacheImpl::sweep(Lock& lock) {
  const auto reclaim = options_.reclaim_within;
  spare_.clear_idle(spare_time);
  sweep_at_ = Clock::now() + std::clamp(reclaim / sweeps_of_reclaim, least_sweep, longest_sweep);
  const auto now = now_ms();
  const auto overdue = reclaim.count() / rewrite_of_reclaim;
  std::vector<std::uint64_t> gone, thinned;
  for (const auto& [id, segment] : index_.segments()) {
    const auto ttl = ttl_of(segment->owner.tenant, segment->owner.kind).count();
    const auto first = std::min(segment->first_expiry_ms, segment->oldest_ms + ttl);
    const auto last = std::min(segment->last_expiry_ms, segment->newest_ms + ttl);
    if (last <= now || expired(segment->owner, {{}, segment->newest_ms, ~0U, 0}, now)) {
      gone.push_back(id);
    } else if (first + overdue <= now) {
      thinned.push_back(id);
    }
  }
  if (!drop(lock, std::move(gone), &CacheCounts::expired_total)) return;
  for (const auto id : thinned) {
    const bool done = rewrite(
        lock, {id},
        [&](const Segment& segment, const SegmentEntry& entry) {
          return !expired(segment.owner, entry, now);
        },
        &CacheCounts::expired_total);
    // What cannot be thinned goes as a whole: the promise is that the space comes back.
    if (!done && !drop(lock, {id}, &CacheCounts::expired_total)) return;
  }
  keep_bounds(lock);
  for (int i = 0; i < merges_of_sweep; ++i) {
    const auto small = index_.mergeable([this](const TenantId& id) { return target_bytes(id); });
    if (small.empty() || !rewrite(
                             lock, small,
                             [&](const Segment& segment, const SegmentEntry& entry) {
                               return !expired(segment.owner, entry, now);
                             },
                             &CacheCounts::expired_total)) {
      break;
    }
    sweep_at_ = {};  // there may be more
  }
}

// --- Removal ---

std::uint64_t DiskCacheImpl::purge_now(Lock& lock, const CachePurge& what) {
  const auto before = now_ms() - what.older_than.count();
  const auto meant = [&](const SegmentOwner& owner) {
    return (!what.tenant || *what.tenant == owner.tenant) &&
           (!what.kind || *what.kind == owner.kind);
  };
  const auto old = [&](const SegmentEntry& entry) {
    return what.older_than <= std::chrono::milliseconds::zero() || entry.created_ms <= before;
  };
  std::uint64_t purged = 0;
  for (auto at = queues_.begin(); at != queues_.end();) {
    auto& [owner, queue] = *at;
    if (meant(owner)) {
      std::erase_if(queue.entries, [&](const BufferedEntry& entry) {
        if (!old(entry->entry)) return false;
        queue.bytes -= entry->file_bytes;
        ++counts(owner.tenant, owner.kind).purged_total;
        ++purged;
        forget(*entry);
        return true;
      });
    }
    at = queue.entries.empty() ? queues_.erase(at) : std::next(at);
  }
  std::vector<std::uint64_t> whole, part;
  for (const auto& [id, segment] : index_.segments()) {
    if (!meant(segment->owner)) continue;
    const auto count = static_cast<std::uint64_t>(std::ranges::count_if(segment->entries, old));
    purged += count;
    if (count == segment->entries.size()) {
      whole.push_back(id);
    } else if (count > 0) {
      part.push_back(id);
    }
  }
  for (const auto id : part) {
    const bool done = rewrite(
        lock, {id}, [&](const Segment&, const SegmentEntry& entry) { return !old(entry); },
        &CacheCounts::purged_total);
    if (!done) whole.push_back(id);  // rather too much than too little
  }
  drop(lock, std::move(whole), &CacheCounts::purged_total);
  return purged;
}

void DiskCacheImpl::drop_other_keys(Lock& lock, const TenantId& tenant) {
  std::vector<std::uint64_t> others;
  for (const auto& [id, segment] : index_.segments()) {
    if (segment->owner.tenant == tenant && segment->key_id != key_id_of(tenant)) {
      others.push_back(id);
    }
  }
  drop(lock, std::move(others), &CacheCounts::purged_total);
}

}  // namespace plimsoll::storage
