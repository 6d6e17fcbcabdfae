#include "cluster/prefix_map.h"

#include <gtest/gtest.h>

#include <numeric>

namespace plimsoll::cluster {
namespace {

std::vector<std::int32_t> prompt(std::size_t tokens, std::int32_t first = 0) {
  std::vector<std::int32_t> out(tokens);
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST(PrefixHashes, OfWholeBlocksAndChained) {
  const auto hashes = prefix_hashes("t", "m", prompt(50));
  EXPECT_EQ(hashes.size(), 3U) << "50 tokens are 3 whole blocks";
  auto other = prompt(64);
  other[20] = 999;
  const auto changed = prefix_hashes("t", "m", other);
  EXPECT_EQ(changed[0], hashes[0]);
  EXPECT_NE(changed[1], hashes[1]);
  EXPECT_NE(changed[2], hashes[2]) << "the same tokens behind others are not the same";
  EXPECT_EQ(prefix_hashes("t", "m", prompt(10000)).size(), 128U);
  EXPECT_TRUE(prefix_hashes("t", "m", prompt(15)).empty());
}

TEST(PrefixHashes, TenantsAndModelsShareNothing) {
  const auto hashes = prefix_hashes("t", "m", prompt(16));
  EXPECT_NE(prefix_hashes("u", "m", prompt(16)), hashes);
  EXPECT_NE(prefix_hashes("t", "n", prompt(16)), hashes);
  EXPECT_NE(prefix_hashes("tm", "", prompt(16)), hashes);
}

TEST(PrefixMap, KnowsWhoHoldsHowMuch) {
  PrefixMap map;
  const auto shorter = prefix_hashes("t", "m", prompt(32));
  const auto longer = prefix_hashes("t", "m", prompt(80));
  map.sent("a", longer);
  map.sent("b", shorter);
  EXPECT_EQ(map.held("a", longer), 5U);
  EXPECT_EQ(map.held("a", shorter), 2U);
  EXPECT_EQ(map.held("b", longer), 2U);
  EXPECT_EQ(map.held("c", longer), 0U);
  map.forget("a");
  EXPECT_EQ(map.held("a", longer), 0U);
  EXPECT_EQ(map.held("b", longer), 2U);
  map.sent("a", shorter);
  EXPECT_EQ(map.held("a", longer), 2U) << "what it held before it was lost is gone";
}

TEST(PrefixMap, ForgetsTheOldestAndTheEndFirst) {
  PrefixMap map(8);
  const auto first = prefix_hashes("t", "m", prompt(64));
  const auto second = prefix_hashes("t", "m", prompt(64, 1000));
  const auto third = prefix_hashes("t", "m", prompt(32, 2000));
  map.sent("a", first);
  map.sent("a", second);
  map.sent("a", first);
  map.sent("a", third);
  EXPECT_EQ(map.held("a", first), 4U) << "used again";
  EXPECT_EQ(map.held("a", third), 2U);
  EXPECT_EQ(map.held("a", second), 2U) << "its beginning is worth more than its end";
}

TEST(PrefixMap, IsBounded) {
  PrefixMap map(1000);
  for (std::int32_t i = 0; i < 2000; ++i) {
    map.sent("node-" + std::to_string(i % 50), prefix_hashes("t", "m", prompt(160, i * 1000)));
  }
  EXPECT_LT(map.memory_bytes(), 200'000U);
  const auto hashes = prefix_hashes("t", "m", prompt(160));
  for (int i = 0; i < 50; ++i) map.sent("node-" + std::to_string(i), hashes);
  EXPECT_EQ(map.held("node-49", hashes), 10U);
  EXPECT_EQ(map.held("node-46", hashes), 10U);
  EXPECT_EQ(map.held("node-45", hashes), 0U) << "of many, the last few";
}

}  // namespace
}  // namespace plimsoll::cluster
