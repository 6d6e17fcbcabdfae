#include "storage/segment_index.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace plimsoll::storage {
namespace {

constexpr std::uint8_t segment_version = 1;
constexpr std::size_t listed_entry_bytes = 32;
// Nodes of maps and sets, and what the allocator adds to each.
constexpr std::uint64_t segment_overhead_bytes = 320;
constexpr std::size_t merged_segments = 4;
constexpr std::size_t few_segments = 64;
constexpr std::size_t least_slots = 64;

bool by_hash(const SegmentEntry& a, const SegmentEntry& b) { return a.hash < b.hash; }

// Takes from the front of `bytes`.
std::optional<std::string> take_text(std::string_view& bytes) {
  if (bytes.size() < 4) return std::nullopt;
  const auto length = get_number<std::uint32_t>(bytes.data());
  bytes.remove_prefix(4);
  if (length > bytes.size()) return std::nullopt;
  std::string text(bytes.substr(0, length));
  bytes.remove_prefix(length);
  return text;
}
void put_text(std::string& out, std::string_view text) {
  put_number(out, static_cast<std::uint32_t>(text.size()));
  out.append(text);
}

}  // namespace

std::uint64_t Segment::memory_bytes() const {
  return segment_overhead_bytes + 2 * (owner.tenant.get().size() + owner.salt.size()) +
         entries.size() * (sizeof(SegmentEntry) + EntryTable::entry_bytes);
}

std::string encode_segment(const Segment& segment) {
  std::string out;
  put_number(out, segment_version);
  put_number(out, static_cast<std::uint8_t>(segment.owner.kind));
  put_number(out, segment.key_id);
  put_text(out, segment.owner.tenant.get());
  put_text(out, segment.owner.salt);
  put_number(out, static_cast<std::uint32_t>(segment.entries.size()));
  for (const auto& entry : segment.entries) {
    out.append(entry.hash.view());
    put_number(out, entry.created_ms);
    put_number(out, entry.ttl_ms);
    put_number(out, entry.bytes);
  }
  put_number(out, XXH3_64bits(out.data(), out.size()));
  return out;
}

Result<Segment> decode_segment(std::string_view bytes) {
  const auto broken = [] { return fail(ErrorCode::malformed, "a segment's list is broken"); };
  if (bytes.size() < 18) return broken();
  const auto sum = get_number<std::uint64_t>(bytes.data() + bytes.size() - 8);
  bytes.remove_suffix(8);
  if (XXH3_64bits(bytes.data(), bytes.size()) != sum) return broken();
  if (bytes[0] != segment_version) return broken();
  const auto kind = static_cast<std::uint8_t>(bytes[1]);
  if (kind >= cache_kind_count) return broken();
  Segment segment;
  segment.owner.kind = static_cast<CacheKind>(kind);
  segment.key_id = get_number<std::uint64_t>(bytes.data() + 2);
  bytes.remove_prefix(10);
  auto tenant = take_text(bytes);
  if (!tenant) return broken();
  auto salt = take_text(bytes);
  if (!salt || bytes.size() < 4) return broken();
  segment.owner.tenant = TenantId(std::move(*tenant));
  segment.owner.salt = std::move(*salt);
  const auto count = get_number<std::uint32_t>(bytes.data());
  bytes.remove_prefix(4);
  if (count == 0 || bytes.size() != count * listed_entry_bytes) return broken();
  segment.entries.resize(count);
  for (auto& entry : segment.entries) {
    std::memcpy(entry.hash.bytes.data(), bytes.data(), entry.hash.bytes.size());
    entry.created_ms = get_number<std::int64_t>(bytes.data() + 16);
    entry.ttl_ms = get_number<std::uint32_t>(bytes.data() + 24);
    entry.bytes = get_number<std::uint32_t>(bytes.data() + 28);
    bytes.remove_prefix(listed_entry_bytes);
  }
  if (!std::ranges::is_sorted(segment.entries, by_hash)) return broken();
  return segment;
}

void SegmentIndex::add(Segment segment) {
  auto owned = std::make_unique<Segment>(std::move(segment));
  owned->entries.shrink_to_fit();
  const auto& first = owned->entries.front();
  owned->oldest_ms = owned->newest_ms = first.created_ms;
  owned->first_expiry_ms = owned->last_expiry_ms = first.created_ms + first.ttl_ms;
  for (const auto& entry : owned->entries) {
    owned->oldest_ms = std::min(owned->oldest_ms, entry.created_ms);
    owned->newest_ms = std::max(owned->newest_ms, entry.created_ms);
    owned->first_expiry_ms = std::min(owned->first_expiry_ms, entry.created_ms + entry.ttl_ms);
    owned->last_expiry_ms = std::max(owned->last_expiry_ms, entry.created_ms + entry.ttl_ms);
  }
  const Segment* s = owned.get();
  auto& of_kind = tenants_[s->owner.tenant][static_cast<std::size_t>(s->owner.kind)];
  of_kind.by_age.emplace(s->newest_ms, s->id);
  for (Held* held : {&of_kind.held, &total_}) {
    held->bytes += s->file_bytes;
    held->entries += s->entries.size();
    held->memory_bytes += s->memory_bytes();
  }
  owned->place = take_place(s);
  for (const auto& entry : s->entries) table_.add(entry.hash, s->place);
  segments_.emplace(s->id, std::move(owned));
}

std::optional<Segment> SegmentIndex::remove(std::uint64_t id) {
  const auto found = segments_.find(id);
  if (found == segments_.end()) return std::nullopt;
  Segment& s = *found->second;
  const auto tenant = tenants_.find(s.owner.tenant);
  auto& of_kind = tenant->second[static_cast<std::size_t>(s.owner.kind)];
  of_kind.by_age.erase({s.newest_ms, s.id});
  for (Held* held : {&of_kind.held, &total_}) {
    held->bytes -= s.file_bytes;
    held->entries -= s.entries.size();
    held->memory_bytes -= s.memory_bytes();
  }
  for (const auto& entry : s.entries) table_.remove(entry.hash, s.place);
  places_[s.place] = nullptr;
  unused_places_.push_back(s.place);
  if (std::ranges::all_of(tenant->second, [](const auto& k) { return k.by_age.empty(); })) {
    tenants_.erase(tenant);
  }
  Segment gone = std::move(s);
  segments_.erase(found);
  return gone;
}

const Segment* SegmentIndex::find(std::uint64_t id) const {
  const auto found = segments_.find(id);
  return found == segments_.end() ? nullptr : found->second.get();
}

std::uint32_t SegmentIndex::take_place(const Segment* segment) {
  if (unused_places_.empty()) {
    places_.push_back(segment);
    return static_cast<std::uint32_t>(places_.size() - 1);
  }
  const auto place = unused_places_.back();
  unused_places_.pop_back();
  places_[place] = segment;
  return place;
}

std::optional<SegmentIndex::Found> SegmentIndex::find(const CacheHash& hash,
                                                      const Wanted& wanted) const {
  std::optional<Found> best;
  table_.look_up(hash, [&](std::uint32_t place) {
    const Segment* segment = places_[place];
    const auto at = std::ranges::lower_bound(segment->entries, hash, {}, &SegmentEntry::hash);
    if (at == segment->entries.end() || at->hash != hash || !wanted(*segment, *at)) return;
    const auto newer = [](const SegmentEntry& a, const SegmentEntry& b) {
      return std::pair(a.created_ms, a.bytes) > std::pair(b.created_ms, b.bytes);
    };
    if (!best || newer(*at, best->entry)) best = Found{segment, *at};
  });
  return best;
}

SegmentIndex::Held SegmentIndex::of(const TenantId& tenant) const {
  Held sum;
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return sum;
  for (const auto& of_kind : found->second) {
    sum.bytes += of_kind.held.bytes;
    sum.entries += of_kind.held.entries;
    sum.memory_bytes += of_kind.held.memory_bytes;
  }
  return sum;
}

SegmentIndex::Held SegmentIndex::of(const TenantId& tenant, CacheKind kind) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? Held{} : found->second[static_cast<std::size_t>(kind)].held;
}

std::vector<TenantId> SegmentIndex::tenants() const {
  std::vector<TenantId> all;
  for (const auto& [id, tenant] : tenants_) all.push_back(id);
  return all;
}

std::uint64_t SegmentIndex::oldest_of_largest(const OfTenant& tenant, Measure measure) {
  const auto largest = std::ranges::max_element(
      tenant, {}, [measure](const OfKind& of_kind) { return of_kind.held.*measure; });
  return largest->by_age.begin()->second;
}

std::uint64_t SegmentIndex::victim_of(const TenantId& tenant, Measure measure) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : oldest_of_largest(found->second, measure);
}

std::uint64_t SegmentIndex::victim(Measure measure) const {
  const OfTenant* largest = nullptr;
  std::uint64_t most = 0;
  for (const auto& [id, tenant] : tenants_) {
    std::uint64_t holds = 0;
    for (const auto& of_kind : tenant) holds += of_kind.held.*measure;
    if (largest == nullptr || holds > most) {
      largest = &tenant;
      most = holds;
    }
  }
  return largest == nullptr ? 0 : oldest_of_largest(*largest, measure);
}

std::vector<std::uint64_t> SegmentIndex::mergeable(
    const std::function<std::uint64_t(const TenantId&)>& target) const {
  for (const auto& [id, tenant] : tenants_) {
    for (const auto& of_kind : tenant) {
      if (of_kind.by_age.size() <= few_segments) continue;
      std::map<std::pair<std::string, std::uint64_t>, std::vector<const Segment*>> alike;
      for (const auto& [age, segment] : of_kind.by_age) {
        const auto* s = find(segment);
        alike[{s->owner.salt, s->key_id}].push_back(s);
      }
      for (const auto& [name, run] : alike) {
        std::uint64_t bytes = 0;
        for (const auto* s : run) bytes += s->file_bytes;
        if (run.size() <= few_segments || bytes / run.size() >= target(id) / 2) continue;
        std::size_t best = 0;
        std::uint64_t least = ~std::uint64_t{0};
        for (std::size_t i = 0; i + merged_segments <= run.size(); ++i) {
          std::uint64_t sum = 0;
          for (std::size_t j = i; j < i + merged_segments; ++j) sum += run[j]->file_bytes;
          if (sum < least) {
            least = sum;
            best = i;
          }
        }
        std::vector<std::uint64_t> ids;
        for (std::size_t j = best; j < best + merged_segments; ++j) ids.push_back(run[j]->id);
        return ids;
      }
    }
  }
  return {};
}

// --- The table of entries ---

void EntryTable::add(const CacheHash& hash, std::uint32_t place) {
  if ((used_ + 1) * 4 > slots_.size() * 3) resize(std::max(least_slots, slots_.size() * 2));
  place_in({tag_of(hash), place});
  ++used_;
}

void EntryTable::place_in(Slot slot) {
  auto at = slot.tag & mask();
  while (slots_[at].place != none) at = (at + 1) & mask();
  slots_[at] = slot;
}

void EntryTable::remove(const CacheHash& hash, std::uint32_t place) {
  const auto tag = tag_of(hash);
  auto at = tag & mask();
  while (slots_[at].tag != tag || slots_[at].place != place) at = (at + 1) & mask();
  // What comes behind moves up, unless it would come before its own beginning.
  for (auto next = (at + 1) & mask(); slots_[next].place != none; next = (next + 1) & mask()) {
    const auto begins = slots_[next].tag & mask();
    if (((next - begins) & mask()) < ((next - at) & mask())) continue;
    slots_[at] = slots_[next];
    at = next;
  }
  slots_[at] = {};
  --used_;
  if (used_ == 0) {
    slots_ = {};
  } else if (slots_.size() > least_slots && used_ * 3 < slots_.size()) {
    resize(slots_.size() / 2);
  }
}

void EntryTable::resize(std::size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const auto& slot : old) {
    if (slot.place != none) place_in(slot);
  }
}

}  // namespace plimsoll::storage
