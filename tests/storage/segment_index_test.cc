#include "storage/segment_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace plimsoll::storage {
namespace {

SegmentEntry entry(int key, std::int64_t created_ms = 0) {
  return {hash_of("salt", CacheKind::prefix, std::to_string(key)), created_ms, 1000, 100};
}
Segment segment(std::uint64_t id, const std::string& tenant, std::vector<SegmentEntry> entries,
                std::uint64_t file_bytes = 1000, CacheKind kind = CacheKind::prefix) {
  Segment s;
  s.id = id;
  s.owner = {TenantId(tenant), "salt", kind};
  s.file_bytes = file_bytes;
  s.entries = std::move(entries);
  std::ranges::sort(s.entries, {}, &SegmentEntry::hash);
  return s;
}
bool any(const Segment&, const SegmentEntry&) { return true; }

TEST(SegmentIndex, TheNewestEntryIsFoundAndTheOlderOneWhenItGoes) {
  SegmentIndex index;
  index.add(segment(1, "a", {entry(7, 100), entry(8, 100)}));
  index.add(segment(2, "b", {entry(7, 200)}));
  index.add(segment(3, "a", {entry(7, 150)}));
  const auto hash = entry(7).hash;
  EXPECT_EQ(index.find(hash, any)->segment->id, 2u);
  EXPECT_EQ(
      index.find(hash, [](const auto& s, const auto&) { return s.owner.tenant.get() == "a"; })
          ->segment->id,
      3u);
  index.remove(2);
  EXPECT_EQ(index.find(hash, any)->segment->id, 3u);
  index.remove(3);
  index.remove(1);
  EXPECT_FALSE(index.find(hash, any));
  EXPECT_EQ(index.total().memory_bytes, 0u);
  EXPECT_EQ(index.total().bytes, 0u);
}

TEST(SegmentIndex, FindsWhatAPlainMapFinds) {
  std::mt19937_64 random(5);
  SegmentIndex index;
  std::map<std::uint64_t, std::vector<int>> held;  // by segment
  std::uint64_t next = 1;
  for (int round = 0; round < 600; ++round) {
    if (held.empty() || random() % 5 < 3) {
      std::vector<int> keys;
      std::vector<SegmentEntry> entries;
      for (int i = static_cast<int>(random() % 40); i >= 0; --i) {
        const int key = static_cast<int>(random() % 500);
        if (std::ranges::find(keys, key) != keys.end()) continue;
        keys.push_back(key);
        entries.push_back(entry(key, static_cast<std::int64_t>(next)));
      }
      index.add(segment(next, "t" + std::to_string(random() % 3), std::move(entries)));
      held[next++] = keys;
    } else {
      const auto gone = std::next(held.begin(), static_cast<long>(random() % held.size()));
      EXPECT_TRUE(index.remove(gone->first));
      EXPECT_FALSE(index.remove(gone->first));
      held.erase(gone);
    }
    std::map<int, std::uint64_t> newest;
    std::uint64_t entries = 0;
    for (const auto& [id, keys] : held) {
      entries += keys.size();
      for (const int key : keys) newest[key] = id;
    }
    EXPECT_EQ(index.total().entries, entries);
    for (int key = round % 7; key < 500; key += 7) {
      const auto found = index.find(entry(key).hash, any);
      ASSERT_EQ(found.has_value(), newest.contains(key));
      if (found) {
        EXPECT_EQ(found->segment->id, newest[key]);
      }
    }
  }
}

TEST(SegmentIndex, TheVictimIsTheOldestOfWhoHoldsMost) {
  SegmentIndex index;
  using Held = SegmentIndex::Held;
  index.add(segment(1, "small", {entry(1, 1)}, 500));
  index.add(segment(2, "large", {entry(2, 5)}, 800));
  index.add(segment(3, "large", {entry(3, 4)}, 900));
  index.add(segment(4, "large", {entry(4, 2)}, 300, CacheKind::tokens));
  EXPECT_EQ(index.victim(&Held::bytes), 3u) << "the older one of the larger kind";
  EXPECT_EQ(index.victim_of(TenantId("small"), &Held::bytes), 1u);
  EXPECT_EQ(index.victim_of(TenantId("nobody"), &Held::bytes), 0u);
  // Another measure, another victim.
  std::vector<SegmentEntry> many;
  for (int i = 10; i < 100; ++i) many.push_back(entry(i, 9));
  index.add(segment(5, "small", many, 100));
  EXPECT_EQ(index.victim(&Held::memory_bytes), 1u);
  EXPECT_EQ(index.victim(&Held::bytes), 3u);
}

TEST(SegmentIndex, SmallNeighboursAreMerged) {
  SegmentIndex index;
  const auto target = [](const TenantId&) { return std::uint64_t{10'000}; };
  for (int i = 1; i <= 64; ++i) index.add(segment(i, "a", {entry(i, i)}, i == 30 ? 10 : 1000));
  EXPECT_TRUE(index.mergeable(target).empty()) << "they are few";
  index.add(segment(65, "a", {entry(65, 65)}, 1000));
  const auto four = index.mergeable(target);
  ASSERT_EQ(four.size(), 4u);
  EXPECT_EQ(four[3], four[0] + 3);
  EXPECT_TRUE(four[0] <= 30 && 30 <= four[3]);
  const auto reached = [](const TenantId&) { return std::uint64_t{1500}; };
  EXPECT_TRUE(index.mergeable(reached).empty()) << "they are as large as they should be";
}

TEST(SegmentIndex, ASegmentDescribesItself) {
  auto s = segment(9, "tenant", {entry(1, 10), entry(2, 20)}, 1000, CacheKind::tokens);
  s.key_id = 77;
  const auto bytes = encode_segment(s);
  const auto back = decode_segment(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->owner, s.owner);
  EXPECT_EQ(back->key_id, 77u);
  ASSERT_EQ(back->entries.size(), 2u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(back->entries[i].hash, s.entries[i].hash);
    EXPECT_EQ(back->entries[i].created_ms, s.entries[i].created_ms);
    EXPECT_EQ(back->entries[i].ttl_ms, 1000u);
    EXPECT_EQ(back->entries[i].bytes, 100u);
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto broken = bytes;
    broken[i] = static_cast<char>(broken[i] + 1);
    EXPECT_FALSE(decode_segment(broken)) << i;
    EXPECT_FALSE(decode_segment(bytes.substr(0, i))) << i;
  }
}

}  // namespace
}  // namespace plimsoll::storage
