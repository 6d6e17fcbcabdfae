#include "cluster/membership.h"

#include <gtest/gtest.h>

#include <random>

namespace plimsoll::cluster {
namespace {

TEST(Membership, ANodesLife) {
  Membership m;
  EXPECT_TRUE(m.apply("a", 1, NodeEvent::join));
  EXPECT_EQ(m.find("a")->state, NodeState::joining);
  EXPECT_TRUE(m.apply("a", 1, NodeEvent::ready));
  EXPECT_TRUE(m.apply("a", 1, NodeEvent::cordon));
  EXPECT_EQ(m.find("a")->state, NodeState::cordoned);
  EXPECT_TRUE(m.apply("a", 1, NodeEvent::uncordon));
  EXPECT_TRUE(m.apply("a", 1, NodeEvent::drain));
  EXPECT_FALSE(m.apply("a", 1, NodeEvent::ready));
  EXPECT_TRUE(m.apply("a", 1, NodeEvent::lose));
  EXPECT_FALSE(m.apply("a", 1, NodeEvent::lose));
  EXPECT_EQ(m.version(), 6U);
  EXPECT_EQ(m.find("b"), nullptr);
}

TEST(Membership, OldEpochsAreVoid) {
  Membership m;
  m.apply("a", 1, NodeEvent::join);
  m.apply("a", 1, NodeEvent::lose);
  EXPECT_FALSE(m.apply("a", 1, NodeEvent::join));
  EXPECT_TRUE(m.apply("a", 2, NodeEvent::join));
  EXPECT_FALSE(m.apply("a", 1, NodeEvent::lose));
  EXPECT_FALSE(m.apply("a", 3, NodeEvent::ready)) << "an epoch that never joined";
  EXPECT_TRUE(m.apply("a", 2, NodeEvent::ready));
}

// In any order of events: epochs never fall, a lost or draining node takes work again only with a
// new epoch, and the version counts exactly the changes.
TEST(Membership, HoldsItsInvariantsInAnyOrder) {
  std::mt19937 random(7);
  Membership m;
  std::uint64_t changes = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string node(1, static_cast<char>('a' + random() % 3));
    const std::uint64_t epoch = random() % 50;
    const auto event = static_cast<NodeEvent>(random() % 6);
    const auto* found = m.find(node);
    const auto before = found != nullptr ? std::optional(*found) : std::nullopt;
    const bool applied = m.apply(node, epoch, event);
    changes += applied ? 1 : 0;
    found = m.find(node);
    if (found == nullptr) continue;
    ASSERT_EQ(m.version(), changes);
    if (!before) continue;
    ASSERT_GE(found->epoch, before->epoch);
    if (!applied) {
      ASSERT_EQ(found->state, before->state);
    } else if (found->epoch == before->epoch) {
      ASSERT_NE(found->state, NodeState::joining);
      if (before->state == NodeState::lost) FAIL() << "a lost node changed in its epoch";
      if (before->state == NodeState::draining) {
        ASSERT_EQ(found->state, NodeState::lost);
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll::cluster
