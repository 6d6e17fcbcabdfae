// What the cache on disk holds, in memory: segments, the entries of each, who may be found by whom,
// and what goes next. A segment is one file: entries of one tenant, salt and kind, written together
// and dropped as a whole. Not thread-safe; no I/O.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "storage/cache_record.h"

namespace plimsoll::storage {

struct SegmentOwner {
  TenantId tenant;
  std::string salt;
  CacheKind kind = CacheKind::prefix;
  auto operator<=>(const SegmentOwner&) const = default;
};

struct SegmentEntry {
  CacheHash hash;
  std::int64_t created_ms = 0;
  std::uint32_t ttl_ms = 0;
  std::uint32_t bytes = 0;  // of its record
};

struct Segment {
  std::uint64_t id = 0;
  SegmentOwner owner;
  std::uint64_t key_id = 0;  // of the key that it is encrypted under; 0: plain
  std::uint64_t file_bytes = 0;
  std::vector<SegmentEntry> entries;  // by hash

  // Of its entries; set by SegmentIndex::add().
  std::int64_t oldest_ms = 0, newest_ms = 0;
  std::int64_t first_expiry_ms = 0, last_expiry_ms = 0;  // by the entries' own TTLs

  std::uint32_t place = 0;  // the index's own

  std::uint64_t memory_bytes() const;
};

// What a segment's file says of itself, so that all of this can be had again without reading it.
std::string encode_segment(const Segment& segment);
// Without id and file_bytes. Errors: malformed.
Result<Segment> decode_segment(std::string_view bytes);

// Segments by the hashes of their entries: an open hash table of 32 bits of the hash and the
// segment's place.
class EntryTable {
 public:
  static constexpr std::uint64_t entry_bytes = 24;  // at most: three slots
  static constexpr std::uint32_t none = ~0U;

  void add(const CacheHash& hash, std::uint32_t place);
  void remove(const CacheHash& hash, std::uint32_t place);  // which is there
  // Calls `see` with each place that the hash may be in.
  template <class See>
  void look_up(const CacheHash& hash, const See& see) const {
    if (slots_.empty()) return;
    const auto tag = tag_of(hash);
    for (auto at = tag & mask(); slots_[at].place != none; at = (at + 1) & mask()) {
      if (slots_[at].tag == tag) see(slots_[at].place);
    }
  }

 private:
  struct Slot {
    std::uint32_t tag = 0;
    std::uint32_t place = none;
  };
  static std::uint32_t tag_of(const CacheHash& hash) {
    return get_number<std::uint32_t>(reinterpret_cast<const char*>(hash.bytes.data()));
  }
  std::uint32_t mask() const { return static_cast<std::uint32_t>(slots_.size() - 1); }
  void resize(std::size_t slots);
  void place_in(Slot slot);

  std::vector<Slot> slots_;  // a power of two
  std::size_t used_ = 0;
};

class SegmentIndex {
 public:
  struct Held {
    std::uint64_t bytes = 0, entries = 0, memory_bytes = 0;
  };
  // What a bound is on, and what makes the largest holder.
  using Measure = std::uint64_t Held::*;
  using Wanted = std::function<bool(const Segment&, const SegmentEntry&)>;

  void add(Segment segment);
  std::optional<Segment> remove(std::uint64_t id);
  const Segment* find(std::uint64_t id) const;

  struct Found {
    const Segment* segment;
    SegmentEntry entry;
  };
  // The newest entry of that name that is `wanted`.
  std::optional<Found> find(const CacheHash& hash, const Wanted& wanted) const;

  const Held& total() const { return total_; }
  Held of(const TenantId& tenant) const;
  Held of(const TenantId& tenant, CacheKind kind) const;
  std::vector<TenantId> tenants() const;
  std::size_t size() const { return segments_.size(); }

  // The oldest segment of the kind that the tenant holds most of; 0: it has none.
  std::uint64_t victim_of(const TenantId& tenant, Measure measure) const;
  // The same of whoever holds most.
  std::uint64_t victim(Measure measure) const;

  // Where an owner has many segments that are small next to what `target` says theirs should have:
  // the neighbours in age, four, that are the least work to make one of. Empty: nowhere.
  std::vector<std::uint64_t> mergeable(
      const std::function<std::uint64_t(const TenantId&)>& target) const;

  // By id.
  const std::map<std::uint64_t, std::unique_ptr<Segment>>& segments() const { return segments_; }

 private:
  using Age = std::pair<std::int64_t, std::uint64_t>;  // newest entry, id
  struct OfKind {
    Held held;
    std::set<Age> by_age;
  };
  using OfTenant = std::array<OfKind, cache_kind_count>;
  std::uint32_t take_place(const Segment* segment);
  static std::uint64_t oldest_of_largest(const OfTenant& tenant, Measure measure);

  std::map<std::uint64_t, std::unique_ptr<Segment>> segments_;
  std::map<TenantId, OfTenant> tenants_;
  EntryTable table_;
  std::vector<const Segment*> places_;  // null: unused
  std::vector<std::uint32_t> unused_places_;
  Held total_;
};

}  // namespace plimsoll::storage
