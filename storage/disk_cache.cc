#include "storage/disk_cache.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <utility>

#include "storage/digest.h"
#include "storage/disk_cache_impl.h"

namespace plimsoll::storage {
namespace {

constexpr std::uint64_t least_bytes = 8 << 20;
constexpr std::uint64_t largest_entry_bytes = 1 << 30;
constexpr std::uint64_t least_target_bytes = 64 << 10;
constexpr std::uint64_t largest_target_bytes = 8 << 20;
constexpr std::uint64_t segments_of_bound = 64;
constexpr std::uint64_t buffered_overhead_bytes = 256;  // of an entry: nodes, hashes, times
constexpr std::chrono::seconds stop_time{5};
constexpr std::chrono::seconds recent{30};
// The clock of an entry that is further ahead was wrong, then or now.
constexpr std::int64_t clock_skew_ms = 60'000;

Result<void> check_ttl(std::chrono::milliseconds ttl) {
  if (ttl >= std::chrono::milliseconds::zero() && ttl <= longest_cache_ttl) return {};
  return fail(ErrorCode::invalid_argument, "a TTL of the cache is 0 to 30 days; this one is " +
                                               std::to_string(ttl.count()) + " ms");
}
Result<void> check_key(const TenantId& tenant, const std::string& key) {
  if (key.size() == encryption_key_bytes) return {};
  return fail(ErrorCode::invalid_argument, "the cache's key of tenant '" + tenant.get() + "' has " +
                                               std::to_string(key.size()) + " bytes; it needs " +
                                               std::to_string(encryption_key_bytes));
}
Result<void> check_options(const DiskCacheOptions& options) {
  if (options.bytes < least_bytes) {
    return fail(ErrorCode::invalid_argument,
                "a cache on disk needs " + std::to_string(least_bytes) + " bytes or more; it has " +
                    std::to_string(options.bytes));
  }
  if (options.entry_bytes > largest_entry_bytes) {
    return fail(
        ErrorCode::invalid_argument,
        "an entry of the cache has " + std::to_string(largest_entry_bytes) + " bytes at most");
  }
  for (const auto ttl : options.ttl) {
    if (auto good = check_ttl(ttl); !good) return good;
  }
  for (const auto& [tenant, key] : options.keys) {
    if (auto good = check_key(tenant, key); !good) return good;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DiskCache>> open_disk_cache(DiskCacheOptions options, Ledger& ledger) {
  if (auto good = check_options(options); !good) return tl::unexpected(good.error());
  auto lock = DirectoryLock::take(options.directory, "the cache");
  if (!lock) return tl::unexpected(lock.error());
  return std::make_unique<DiskCacheImpl>(std::move(options), ledger, std::move(*lock));
}

DiskCacheImpl::DiskCacheImpl(DiskCacheOptions options, Ledger& ledger,
                             std::unique_ptr<DirectoryLock> lock)
    : options_(std::move(options)),
      ledger_(ledger),
      directory_lock_(std::move(lock)),
      spare_(options_.buffer_bytes / 2, ledger_.account(Component::storage, "", shared_tenant)),
      index_charge_(ledger.account(Component::storage, "", shared_tenant), 0),
      table_charge_(ledger.account(Component::storage, "", shared_tenant), 0),
      record_charge_(ledger.account(Component::storage, "", shared_tenant), 0) {
  {
    Lock held(mutex_);
    open_store(held);
  }
  writer_ = std::thread([this] { run(); });
  pthread_setname_np(writer_.native_handle(), "disk cache");
}

DiskCacheImpl::~DiskCacheImpl() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_at_ = Clock::now() + stop_time;
    wake();
  }
  writer_.join();
}

// --- What holds for whom ---

std::int64_t DiskCacheImpl::now_ms() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(options_.now().time_since_epoch())
      .count();
}

std::chrono::milliseconds DiskCacheImpl::ttl_of(const TenantId& tenant, CacheKind kind) const {
  const auto own = tenant_ttls_.find({tenant, kind});
  return own != tenant_ttls_.end() ? own->second : options_.ttl[static_cast<std::size_t>(kind)];
}

std::uint64_t DiskCacheImpl::quota_of(const TenantId& tenant) const {
  const auto own = quotas_.find(tenant);
  return own != quotas_.end() ? own->second : options_.tenant_bytes;
}

// Room is left for RocksDB's own files, and for a rewritten segment beside those that it replaces.
std::uint64_t DiskCacheImpl::limit_bytes() const {
  const auto rewritten =
      2 * std::clamp(options_.bytes / segments_of_bound, least_target_bytes, largest_target_bytes);
  return options_.bytes - SegmentStore::overhead_bytes - rewritten;
}

// The smaller of a bound a segment is, the less goes at once; the larger, the less work it is.
std::uint64_t DiskCacheImpl::target_bytes(const TenantId& tenant) const {
  return std::clamp(std::min(quota_of(tenant), options_.bytes) / segments_of_bound,
                    least_target_bytes, largest_target_bytes);
}

const std::string& DiskCacheImpl::key_of(const TenantId& tenant) const {
  static const std::string none;
  const auto found = options_.keys.find(tenant);
  if (found != options_.keys.end()) return found->second;
  if (!options_.derive_key) return none;
  auto& key = derived_keys_[tenant];
  if (key.empty()) key = options_.derive_key(tenant);
  return key;
}

std::uint64_t DiskCacheImpl::key_id_of(const TenantId& tenant) const {
  const auto& key = key_of(tenant);
  if (key.empty()) return 0;
  return get_number<std::uint64_t>(digest_of("plimsoll cache key" + key).data()) | 1;
}

bool DiskCacheImpl::expired(const SegmentOwner& owner, const SegmentEntry& entry,
                            std::int64_t now) const {
  const auto ttl = std::min<std::int64_t>(entry.ttl_ms, ttl_of(owner.tenant, owner.kind).count());
  return now >= entry.created_ms + ttl || entry.created_ms > now + clock_skew_ms;
}

bool DiskCacheImpl::usable(const Segment& segment, const SegmentEntry& entry,
                           std::int64_t now) const {
  return segment.key_id == key_id_of(segment.owner.tenant) && !expired(segment.owner, entry, now);
}

std::optional<SegmentIndex::Found> DiskCacheImpl::find(const CacheHash& hash,
                                                       std::int64_t now) const {
  return index_.find(
      hash, [&](const auto& segment, const auto& entry) { return usable(segment, entry, now); });
}

CacheCounts& DiskCacheImpl::counts(const TenantId& tenant, CacheKind kind) {
  return counts_[tenant][static_cast<std::size_t>(kind)];
}

void DiskCacheImpl::wake() {
  woken_ = true;
  wake_writer_.notify_one();
}

void DiskCacheImpl::tell(const std::string& trouble) const {
  if (options_.on_trouble)
    options_.on_trouble("cache in " + options_.directory.string() + ": " + trouble);
}

// --- Callers ---

CachePut DiskCacheImpl::put(const CacheOwner& owner, CacheKind kind, std::string_view key,
                            std::string&& value) {
  const auto hash = hash_of(owner.salt, kind, key);
  const std::uint64_t held_bytes = value.size() + buffered_overhead_bytes;
  Account& account = ledger_.account(Component::storage, "", owner.tenant);

  const std::lock_guard lock(mutex_);
  auto& tenant = counts(owner.tenant, kind);
  const auto ttl = ttl_of(owner.tenant, kind);
  const auto file_bytes = SegmentStore::file_bytes(
      1, record_header_bytes + value.size() + encryption_bytes, owner.salt.size());
  if (ttl == std::chrono::milliseconds::zero() || value.size() > options_.entry_bytes ||
      file_bytes > std::min(quota_of(owner.tenant), limit_bytes())) {
    ++tenant.refused_total;
    return CachePut::refused;
  }
  const auto now = now_ms();
  if (buffered_.contains(hash)) return CachePut::known;
  const auto known = find(hash, now);
  // What is longer was stored in part.
  if (known && known->entry.created_ms + known->entry.ttl_ms / 2 > now &&
      known->entry.bytes >= value.size()) {
    return CachePut::known;
  }

  // A tenant may have twice of what it leaves free: two thirds alone, and never so much that
  // another finds no room.
  auto& of_tenant = buffered_of_[owner.tenant];
  const auto free = options_.buffer_bytes - std::min(options_.buffer_bytes, buffered_bytes_);
  const auto time = Clock::now();
  if (stopping_ || store_ == nullptr || time < retry_at_ || held_bytes > free ||
      of_tenant + held_bytes > 2 * free) {
    if (of_tenant == 0) buffered_of_.erase(owner.tenant);
    ++tenant.dropped_total;
    return CachePut::dropped;
  }
  if (held_bytes + spare_.bytes() > free) spare_.clear();
  auto entry = std::make_shared<Buffered>();
  entry->owner = {owner.tenant, owner.salt, kind};
  entry->entry = {hash, now, static_cast<std::uint32_t>(ttl.count()), 0};
  entry->value = std::move(value);
  entry->file_bytes = file_bytes - SegmentStore::file_bytes(0, 0, owner.salt.size());
  entry->due = time + options_.flush_after;
  entry->charge = Charge(account, held_bytes);
  tenant.accepted_bytes_total += entry->value.size();
  of_tenant += held_bytes;
  buffered_bytes_ += held_bytes;
  buffered_.emplace(hash, entry);
  auto& queue = queues_[entry->owner];
  queue.bytes += entry->file_bytes;
  const bool first = queue.entries.empty();
  queue.entries.push_back(std::move(entry));
  if (first || queue.bytes >= target_bytes(owner.tenant) ||
      buffered_bytes_ > options_.buffer_bytes / 2) {
    wake();
  }
  return CachePut::accepted;
}

std::optional<std::string> DiskCacheImpl::look_up(const CacheOwner& owner, CacheKind kind,
                                                  std::string_view key) {
  const auto hash = hash_of(owner.salt, kind, key);
  std::shared_ptr<SegmentStore> store;
  std::uint64_t segment = 0, read = 0;
  std::string encryption_key;
  {
    const std::lock_guard lock(mutex_);
    const auto now = now_ms();
    const auto buffered = buffered_.find(hash);
    if (buffered != buffered_.end() &&
        !expired(buffered->second->owner, buffered->second->entry, now)) {
      return buffered->second->value;
    }
    const auto found = find(hash, now);
    if (!found || store_ == nullptr) return std::nullopt;
    store = store_;
    segment = found->segment->id;
    encryption_key = key_of(found->segment->owner.tenant);
    read = ++last_read_;
    reads_.insert(read);
  }
  const auto begin = Clock::now();
  auto bytes = store->read(segment, &hash);
  const auto end = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    reads_.erase(read);
    read_ended_.notify_all();
    if (bytes) {
      const double cost =
          std::chrono::duration<double>(end - begin).count() /
          static_cast<double>(std::max<std::uint64_t>(bytes->size(), ReadCost::least_bytes));
      const auto& before = end - cost_read_at_ < recent ? recent_cost_ : measured_cost_;
      recent_cost_.seconds_per_byte = 0.9 * before.seconds_per_byte + 0.1 * cost;
      cost_read_at_ = end;
    }
    // Dropped meanwhile, which is no damage.
    if (index_.find(segment) == nullptr) return std::nullopt;
  }
  if (!bytes) {
    found_damage(segment, bytes.error().message);
    return std::nullopt;
  }
  auto record = decode_record(hash, kind, *bytes, encryption_key);
  if (!record) {
    found_damage(segment, record.error().message);
    return std::nullopt;
  }
  // By the record itself, whatever the index says.
  const auto& header = record->header;
  if (now_ms() >= header.created_ms + header.ttl_ms) return std::nullopt;
  return std::move(record->value);
}

std::optional<std::string> DiskCacheImpl::get(const CacheOwner& owner, CacheKind kind,
                                              std::string_view key) {
  auto value = look_up(owner, kind, key);
  const std::lock_guard lock(mutex_);
  auto& tenant = counts(owner.tenant, kind);
  ++(value ? tenant.hits_total : tenant.misses_total);
  return value;
}

std::size_t DiskCacheImpl::get_chain(const CacheOwner& owner, CacheKind kind,
                                     std::span<const std::string> keys,
                                     const std::function<bool(std::size_t, std::string&&)>& take) {
  std::size_t taken = 0;
  while (taken < keys.size()) {
    auto value = get(owner, kind, keys[taken]);
    if (!value || !take(taken, std::move(*value))) break;
    ++taken;
  }
  return taken;
}

std::size_t DiskCacheImpl::chain_length(const CacheOwner& owner, CacheKind kind,
                                        std::span<const std::string> keys) {
  std::vector<CacheHash> hashes;
  for (const auto& key : keys) hashes.push_back(hash_of(owner.salt, kind, key));
  const std::lock_guard lock(mutex_);
  const auto now = now_ms();
  std::size_t length = 0;
  while (length < hashes.size() &&
         (buffered_.contains(hashes[length]) || find(hashes[length], now))) {
    ++length;
  }
  counts(owner.tenant, kind).misses_total += hashes.size() - length;
  return length;
}

// A file that is damaged in one place is not to be trusted in the others.
void DiskCacheImpl::found_damage(std::uint64_t segment, const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    const auto gone = index_.remove(segment);
    if (!gone) return;
    counts(gone->owner.tenant, gone->owner.kind).damaged_total += gone->entries.size();
    damaged_.push_back(segment);
    wake();
  }
  tell("a segment is damaged and dropped: " + why);
}

// --- Operators ---

Result<void> DiskCacheImpl::have_done(Command what, std::chrono::milliseconds deadline) {
  const auto done = std::make_shared<std::promise<void>>();
  auto result = done->get_future();
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back([what = std::move(what), done](Lock& lock) {
      what(lock);
      done->set_value();
    });
    wake();
  }
  if (result.wait_for(deadline) == std::future_status::ready) return {};
  return fail(ErrorCode::deadline_exceeded, "the cache's disk did not answer in " +
                                                std::to_string(deadline.count()) +
                                                " ms; what was asked for is done when it does");
}

Result<std::uint64_t> DiskCacheImpl::purge(const CachePurge& what,
                                           std::chrono::milliseconds deadline) {
  const auto purged = std::make_shared<std::uint64_t>(0);
  auto done =
      have_done([this, what, purged](Lock& lock) { *purged = purge_now(lock, what); }, deadline);
  if (!done) return tl::unexpected(done.error());
  return *purged;
}

Result<void> DiskCacheImpl::flush(std::chrono::milliseconds deadline) {
  return have_done(
      [this](Lock& lock) {
        // What comes meanwhile is not waited for.
        std::vector<SegmentOwner> owners;
        for (const auto& [owner, queue] : queues_) owners.push_back(owner);
        const auto last = Clock::now() + options_.flush_after;
        for (const auto& owner : owners) {
          for (auto queue = queues_.find(owner);
               queue != queues_.end() && queue->second.entries.front()->due <= last;
               queue = queues_.find(owner)) {
            seal(lock, owner, queue->second);
          }
        }
      },
      deadline);
}

void DiskCacheImpl::set_bytes(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  options_.bytes = std::max(bytes, least_bytes);
  sweep_at_ = {};
  wake();
}

void DiskCacheImpl::set_quota(const TenantId& tenant, std::optional<std::uint64_t> bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes) {
    quotas_[tenant] = *bytes;
  } else {
    quotas_.erase(tenant);
  }
  sweep_at_ = {};
  wake();
}

Result<void> DiskCacheImpl::set_ttl(CacheKind kind, std::chrono::milliseconds ttl) {
  if (auto good = check_ttl(ttl); !good) return good;
  const std::lock_guard lock(mutex_);
  options_.ttl[static_cast<std::size_t>(kind)] = ttl;
  sweep_at_ = {};
  wake();
  return {};
}

Result<void> DiskCacheImpl::set_ttl(CacheKind kind, const TenantId& tenant,
                                    std::optional<std::chrono::milliseconds> ttl) {
  if (ttl) {
    if (auto good = check_ttl(*ttl); !good) return good;
  }
  const std::lock_guard lock(mutex_);
  if (ttl) {
    tenant_ttls_[{tenant, kind}] = *ttl;
  } else {
    tenant_ttls_.erase({tenant, kind});
  }
  sweep_at_ = {};
  wake();
  return {};
}

Result<void> DiskCacheImpl::set_key(const TenantId& tenant, std::string key) {
  if (!key.empty()) {
    if (auto good = check_key(tenant, key); !good) return good;
  }
  const std::lock_guard lock(mutex_);
  if (key == key_of(tenant)) return {};
  if (key.empty()) {
    options_.keys.erase(tenant);
  } else {
    options_.keys[tenant] = std::move(key);
  }
  commands_.emplace_back([this, tenant](Lock& held) { drop_other_keys(held, tenant); });
  wake();
  return {};
}

ReadCost DiskCacheImpl::read_cost() const {
  const std::lock_guard lock(mutex_);
  return Clock::now() - cost_read_at_ < recent ? recent_cost_ : measured_cost_;
}

DiskCacheStats DiskCacheImpl::stats() const {
  const std::lock_guard lock(mutex_);
  DiskCacheStats stats;
  stats.tenants = counts_;
  for (const auto& tenant : index_.tenants()) {
    for (std::size_t i = 0; i < cache_kind_count; ++i) {
      const auto held = index_.of(tenant, static_cast<CacheKind>(i));
      stats.tenants[tenant][i].bytes = held.bytes;
      stats.tenants[tenant][i].entries = held.entries;
    }
  }
  stats.bytes = index_.total().bytes;
  stats.limit_bytes = limit_bytes();
  stats.buffered_bytes = buffered_bytes_;
  stats.index_bytes = index_.total().memory_bytes;
  stats.table_bytes = table_charge_.bytes();
  stats.segments = index_.size();
  stats.trouble = trouble_;
  return stats;
}

}  // namespace plimsoll::storage
