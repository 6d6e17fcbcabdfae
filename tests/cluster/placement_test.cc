#include "cluster/placement.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <set>
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
  for (const auto& name : names) out.push_back({name});
  return out;
}

TEST(Placement, NoNodeNoPlace) {
  EXPECT_EQ(place("t", {}), std::nullopt);
  EXPECT_TRUE(home_set("t", {}, 3).empty());
}

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

// Routers of different builds and machines must agree: the order of a few tenants, written down.
TEST(Placement, IsTheSameOnEveryMachine) {
  const auto some = names(6);
  auto nodes = nodes_of(some);
  nodes[2].weight = 2.5;
  EXPECT_EQ(home_set("acme", nodes, 6), (std::vector<std::size_t>{2, 1, 4, 3, 0, 5}));
  EXPECT_EQ(home_set("globex", nodes, 6), (std::vector<std::size_t>{2, 0, 1, 3, 4, 5}));
}

TEST(Placement, FollowsTheWeights) {
  const auto some = names(20);
  auto nodes = nodes_of(some);
  double sum = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].weight = 1.0 + static_cast<double>(i % 4);
    sum += nodes[i].weight;
  }
  std::vector<double> count(nodes.size());
  constexpr int tenants = 10000;
  for (int t = 0; t < tenants; ++t) ++count[*place(std::to_string(t), nodes)];
  double chi_square = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const double expected = tenants * nodes[i].weight / sum;
    chi_square += (count[i] - expected) * (count[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 43.8) << "chance of 1 in 1000 with 19 degrees of freedom";
}

// Over joins and leaves of nodes of different weights, hardly more tenants change their first node
// than must: those of a node that left, and a newcomer's share.
TEST(Placement, MovesHardlyMoreThanItMust) {
  std::mt19937 random(5);
  constexpr int tenants = 10000;
  std::vector<std::string> tenant_names;
  for (int t = 0; t < tenants; ++t) tenant_names.push_back("tenant-" + std::to_string(t));
  for (const int size : {3, 10, 50, 200}) {
    const auto all = names(size + 8);
    std::vector<PlacementNode> nodes;
    const auto add = [&](std::size_t i) {
      nodes.push_back({all[i], 1.0 + static_cast<double>(i % 3)});
    };
    for (int i = 0; i < size; ++i) add(static_cast<std::size_t>(i));
    const auto firsts = [&] {
      std::vector<std::string_view> out;
      for (const auto& tenant : tenant_names) out.push_back(nodes[*place(tenant, nodes)].name);
      return out;
    };
    auto before = firsts();
    std::size_t next = static_cast<std::size_t>(size);
    double moved = 0, ideal = 0;
    for (int change = 0; change < 8; ++change) {
      double weights = 0;
      for (const auto& node : nodes) weights += node.weight;
      if (change % 2 == 0) {
        add(next++);
        ideal += tenants * nodes.back().weight / (weights + nodes.back().weight);
      } else {
        const auto leaving = nodes.begin() + static_cast<std::ptrdiff_t>(random() % nodes.size());
        ideal += tenants * leaving->weight / weights;
        nodes.erase(leaving);
      }
      auto after = firsts();
      for (int t = 0; t < tenants; ++t) moved += before[t] != after[t] ? 1 : 0;
      before = std::move(after);
    }
    std::printf("%d nodes: %.0f tenants moved, %.3f of the ideal\n", size, moved, moved / ideal);
    EXPECT_LE(moved, 1.2 * ideal) << size;
    EXPECT_GE(moved, 0.8 * ideal) << size;
  }
}

TEST(Placement, ANodeThatLeavesTakesOnlyItsOwnPlaceInAHomeSet) {
  const auto some = names(30);
  const auto before = nodes_of(some);
  auto after = before;
  after.erase(after.begin() + 7);
  for (int t = 0; t < 500; ++t) {
    const std::string tenant = std::to_string(t);
    std::vector<std::string_view> was, is;
    for (const auto i : home_set(tenant, before, 4)) was.push_back(before[i].name);
    for (const auto i : home_set(tenant, after, 4)) is.push_back(after[i].name);
    ASSERT_EQ(is.size(), 4U);
    if (std::erase(was, before[7].name) > 0) is.pop_back();
    EXPECT_EQ(is, was) << "the rest keeps its order";
  }
}

TEST(Placement, HomeSetsIgnoreLoadAndHealth) {
  const auto some = names(10);
  auto nodes = nodes_of(some);
  const auto home = home_set("t", nodes, 3);
  EXPECT_EQ(home.size(), 3U);
  EXPECT_EQ(std::set<std::size_t>(home.begin(), home.end()).size(), 3U);
  EXPECT_EQ(home.front(), *place("t", nodes)) << "the first of them serves an idle cluster";
  nodes[home[0]].load = 1000;
  nodes[home[0]].factor = 0.25;
  EXPECT_EQ(home_set("t", nodes, 3), home);
  EXPECT_EQ(home_set("t", nodes, 99).size(), 10U);
}

TEST(Placement, HomeSizesFollowTheTenantsPart) {
  EXPECT_EQ(home_size(2, 20000, 100), 1U);
  EXPECT_EQ(home_size(4, 20000, 100, 2), 2U);
  EXPECT_EQ(home_size(2, 8, 100), 25U);
  EXPECT_EQ(home_size(1, 1, 3), 3U);
  EXPECT_EQ(home_size(4, 4, 1, 2), 1U) << "never more than there are";
  EXPECT_EQ(home_size(1, 10, 0), 0U);
  EXPECT_EQ(home_size(1, 0, 3), 3U);
}

// Whatever the tenant, no node gets beyond its share by more than the bound.
TEST(Placement, OneTenantSpillsOverOnlyAboveTheBound) {
  const auto some = names(4);
  auto nodes = nodes_of(some);
  nodes[1].weight = 3;
  const auto order = home_set("one", nodes, 4);
  std::uint32_t total = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto chosen = place("one", nodes);
    ASSERT_TRUE(chosen);
    for (const auto earlier : order) {
      if (earlier == *chosen) break;
      EXPECT_GE(nodes[earlier].load + 1, 1.25 * (total + 1) * nodes[earlier].weight / 6)
          << "spilled past a node with room";
    }
    ++nodes[*chosen].load;
    ++total;
    for (const auto& node : nodes) EXPECT_LE(node.load, 1.25 * total * node.weight / 6 + 1);
  }
}

TEST(Placement, AHomeSetSharesTheLoad) {
  const auto some = names(10);
  auto nodes = nodes_of(some);
  for (auto& node : nodes) node.load = 100;
  const auto home = home_set("t", nodes, 2);
  for (int i = 0; i < 20; ++i) ++nodes[*place("t", nodes, 2)].load;
  EXPECT_EQ(nodes[home[0]].load, 110U);
  EXPECT_EQ(nodes[home[1]].load, 110U) << "both stay warm";
}

// Beside a tenant with a long queue everywhere, one that stayed at home would be served at home
// only.
TEST(Placement, WhereSequencesWaitATenantIsSpreadEvenly) {
  const auto some = names(4);
  auto nodes = nodes_of(some);
  nodes[0].weight = 2;
  for (auto& node : nodes) {
    node.load = static_cast<std::uint32_t>(100 * node.weight);
    node.waiting = node.load / 2;
  }
  for (int i = 0; i < 50; ++i) {
    auto& chosen = nodes[*place("t", nodes)];
    ++chosen.load;
    ++chosen.own;
  }
  EXPECT_EQ(nodes[0].own, 20U);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(nodes[i].own, 10U);
  for (auto& node : nodes) node.waiting = 0;
  const auto home = home_set("t", nodes, 1).front();
  EXPECT_EQ(*place("t", nodes), home) << "without a queue it stays at home";
}

TEST(Placement, SlowNodesGetLess) {
  const auto some = names(5);
  auto nodes = nodes_of(some);
  nodes[2].factor = 0.25;
  std::mt19937 random(2);
  for (int i = 0; i < 4000; ++i) ++nodes[*place("t" + std::to_string(random() % 500), nodes)].load;
  EXPECT_LE(nodes[2].load, 1.25 * 4000 * 0.25 / 4.25 + 1);
  EXPECT_GE(nodes[2].load, 100U) << "less, not nothing";
}

TEST(Placement, PrefixWinsWithinTheHomeSetAndTheBound) {
  const auto some = names(10);
  auto nodes = nodes_of(some);
  for (auto& node : nodes) node.load = 10;
  const auto order = home_set("t", nodes, 10);
  nodes[order[2]].prefix_blocks = 8;
  nodes[order[2]].load = 11;
  EXPECT_EQ(*place("t", nodes, 3), order[2]);
  EXPECT_NE(*place("t", nodes, 2), order[2]) << "outside of the home set it does not count";
  nodes[order[1]].prefix_blocks = 9;
  EXPECT_EQ(*place("t", nodes, 3), order[1]) << "most of it wins";
  nodes[order[1]].load = 14;
  nodes[order[2]].load = 14;
  EXPECT_EQ(*place("t", nodes, 3), order[0]) << "the bound is stronger";
}

}  // namespace
}  // namespace plimsoll::cluster
