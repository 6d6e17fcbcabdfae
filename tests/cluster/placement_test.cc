#include "cluster/placement.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace plimsoll::cluster {
namespace {

std::vector<std::string> names(int n) {
  std::vector<std::string> out;
  for (int i = 0; i < n; ++i) out.push_back("node-" + std::to_string(i));
  return out;
}

std::vector<PlacementNode> nodes_of(const std::vector<std::string>& names) {
  std::vector<PlacementNode> out;
  for (const auto& name : names) out.push_back({name, 1.0, 0});
  return out;
}

TEST(Placement, NoNodeNoPlace) { EXPECT_EQ(place("t", {}), std::nullopt); }

TEST(Placement, IsStableAndIndependentOfOrder) {
  const auto some = names(5);
  auto nodes = nodes_of(some);
  for (int t = 0; t < 200; ++t) {
    const std::string tenant = "tenant-" + std::to_string(t);
    const auto first = nodes[*place(tenant, nodes)].name;
    std::vector<PlacementNode> reversed(nodes.rbegin(), nodes.rend());
    EXPECT_EQ(reversed[*place(tenant, reversed)].name, first);
  }
}

TEST(Placement, ANodeThatLeavesMovesOnlyItsOwnTenants) {
  const auto some = names(8);
  const auto before = nodes_of(some);
  auto after = before;
  after.erase(after.begin() + 3);
  int moved = 0;
  for (int t = 0; t < 2000; ++t) {
    const std::string tenant = std::to_string(t);
    const auto was = before[*place(tenant, before)].name;
    const auto is = after[*place(tenant, after)].name;
    if (was == before[3].name) {
      ++moved;
      EXPECT_NE(is, was);
    } else {
      EXPECT_EQ(is, was);
    }
  }
  EXPECT_NEAR(moved, 2000 / 8, 70);
}

TEST(Placement, FollowsTheWeights) {
  const auto some = names(3);
  auto nodes = nodes_of(some);
  nodes[0].weight = 2;
  std::map<std::size_t, int> count;
  for (int t = 0; t < 8000; ++t) ++count[*place(std::to_string(t), nodes)];
  EXPECT_NEAR(count[0], 4000, 250);
  EXPECT_NEAR(count[1], 2000, 200);
  EXPECT_NEAR(count[2], 2000, 200);
}

// Whatever the tenant, no node gets beyond its share by more than the bound.
TEST(Placement, OneTenantSpillsOver) {
  const auto some = names(4);
  auto nodes = nodes_of(some);
  nodes[1].weight = 3;
  std::uint32_t total = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto chosen = place("one", nodes);
    ASSERT_TRUE(chosen);
    ++nodes[*chosen].load;
    ++total;
    for (const auto& node : nodes) EXPECT_LE(node.load, 1.25 * total * node.weight / 6 + 1);
  }
}

}  // namespace
}  // namespace plimsoll::cluster
