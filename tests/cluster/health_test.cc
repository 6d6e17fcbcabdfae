#include "cluster/health.h"

#include <gtest/gtest.h>

#include <random>

namespace plimsoll::cluster {
namespace {

TEST(Health, ASilentNodeIsGivenUp) {
  Health health;
  health.join("a", Time(0));
  health.join("b", Time(0));
  EXPECT_TRUE(health.dead(Time(1)).empty());
  health.beat("b", {}, Time(1));
  const auto dead = health.dead(Time(1.2));
  ASSERT_EQ(dead.size(), 1U);
  EXPECT_EQ(dead[0].node, "a");
  EXPECT_EQ(dead[0].reason, "no heartbeat for 1.2 s");
  health.leave("a");
  EXPECT_TRUE(health.dead(Time(1.2)).empty());
  EXPECT_EQ(health.last_heard("b"), Time(1));
  EXPECT_EQ(health.last_heard("a"), std::nullopt);
}

TEST(Health, AnyWordCountsAsALife) {
  Health health;
  health.join("a", Time(0));
  health.heard("a", Time(0.9));
  EXPECT_TRUE(health.dead(Time(1.8)).empty());
  health.heard("nobody", Time(1));
}

// Beats of one node, ten a second, from `from` until `until`.
void beats(Health& health, double from, double until, std::uint32_t sequences,
           std::uint64_t steps_each) {
  std::uint64_t steps = static_cast<std::uint64_t>(from * 10) * steps_each;
  for (double now = from; now < until; now += 0.1) {
    health.beat("a", {.steps = steps += steps_each, .sequences = sequences}, Time(now));
  }
}

TEST(Health, ANodeThatHangsWithWorkIsGivenUp) {
  Health health;
  health.join("a", Time(0));
  beats(health, 0, 30, 0, 0);
  EXPECT_TRUE(health.dead(Time(30)).empty()) << "idle is not stuck";
  beats(health, 30, 39, 12, 0);
  EXPECT_TRUE(health.dead(Time(39)).empty()) << "it has had work for 9 s only";
  beats(health, 39, 41, 12, 0);
  const auto dead = health.dead(Time(41));
  ASSERT_EQ(dead.size(), 1U);
  EXPECT_EQ(dead[0].reason, "holds 12 sequences and did no step for 11 s");
  health.join("a", Time(41));
  EXPECT_TRUE(health.dead(Time(41.5)).empty()) << "it came back: it starts afresh";
}

TEST(Health, SlowStepsAreNotStuck) {
  Health health;
  health.join("a", Time(0));
  for (int i = 0; i < 100; ++i) {  // a step every 5 s
    health.beat("a", {.steps = static_cast<std::uint64_t>(i) / 10, .sequences = 3}, Time(i * 0.5));
    EXPECT_TRUE(health.dead(Time(i * 0.5)).empty());
  }
}

class SlowNodes : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    for (int i = 0; i < GetParam(); ++i) health_.join(name(i), Time(0));
  }
  static std::string name(int i) { return "node-" + std::to_string(i); }
  // First-token waits of some seconds' traffic: noise around `seconds`, node 0 `times` as slow.
  void traffic(double seconds, double times, int samples = 40) {
    for (int s = 0; s < samples; ++s) {
      for (int i = 0; i < GetParam(); ++i) {
        const double noise = 0.9 + static_cast<double>(random_() % 200) / 1000;
        health_.latency(name(i), seconds * noise * (i == 0 ? times : 1));
      }
    }
  }
  Health health_;
  std::mt19937 random_{4};
};
INSTANTIATE_TEST_SUITE_P(Nodes, SlowNodes, testing::Values(2, 3, 20));

TEST_P(SlowNodes, GetLessUntilTheyRecover) {
  for (int i = 0; i < GetParam(); ++i) EXPECT_EQ(health_.factor(name(i)), 1) << "no figures yet";
  traffic(0.1, 1);
  for (int i = 0; i < GetParam(); ++i) EXPECT_GT(health_.factor(name(i)), 0.95);
  traffic(0.1, 3);
  EXPECT_LT(health_.factor(name(0)), 0.7);
  EXPECT_GT(health_.factor(name(0)), 0.25) << "in proportion";
  for (int i = 1; i < GetParam(); ++i) EXPECT_GT(health_.factor(name(i)), 0.95);
  traffic(0.1, 100);
  EXPECT_EQ(health_.factor(name(0)), 0.25) << "never less: else it could not show that it is well";
  traffic(0.1, 1);
  EXPECT_GT(health_.factor(name(0)), 0.95);
}

TEST_P(SlowNodes, SmallDifferencesAreNoise) {
  traffic(0.002, 4);
  EXPECT_EQ(health_.factor(name(0)), 1);
}

TEST_P(SlowNodes, AllSlowIsNobodySlow) {
  traffic(0.1, 1);
  traffic(2, 1);
  for (int i = 0; i < GetParam(); ++i) EXPECT_GT(health_.factor(name(i)), 0.85);
}

TEST_P(SlowNodes, ASlowLinkShowsInProbes) {
  for (int beat = 0; beat < 40; ++beat) {
    for (int i = 0; i < GetParam(); ++i) {
      health_.beat(name(i), {.round_trip_s = i == 0 ? 0.2 : 0.001}, Time(beat * 0.2));
    }
  }
  EXPECT_EQ(health_.factor(name(0)), 0.25);
  EXPECT_EQ(health_.factor(name(1)), 1);
}

TEST_P(SlowNodes, WithoutNewFiguresOldOnesAreForgotten) {
  traffic(0.1, 50);
  EXPECT_EQ(health_.factor(name(0)), 0.25);
  for (int beat = 0; beat < 60; ++beat) health_.beat(name(0), {}, Time(beat * 0.2));
  EXPECT_EQ(health_.factor(name(0)), 1) << "nothing went there any more: try it again";
}

}  // namespace
}  // namespace plimsoll::cluster
