#include "engine/batching/wait_estimate.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace plimsoll {
namespace {

TEST(ExpectedWait, IsNothingWhereNothingIsAhead) {
  EXPECT_EQ(expected_wait({1, 0, 0}, 100, {}, {2, 5}), 0);
}

TEST(ExpectedWait, OwnPromptsAreAllAhead) {
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 3}, 1, {}, {2, 0}), 6);
}

TEST(ExpectedWait, OfOthersOnlyTheFairPartIsAhead) {
  const std::vector<Backlog> flood = {{1, 50, 100}};
  // Half of the time is its own: it waits for as much of the flood as it has itself.
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 0}, 1, flood, {1, 0}), 1);
  EXPECT_DOUBLE_EQ(expected_wait({4, 0, 0}, 1, flood, {1, 0}), 0.25);
  // The flood waits for itself, and for a short one hardly longer.
  const std::vector<Backlog> small = {{1, 1, 0.5}};
  EXPECT_DOUBLE_EQ(expected_wait({1, 50, 100}, 1, small, {1, 0}), 100.5);
}

TEST(ExpectedWait, PlacesMayBeWhatIsShort) {
  EXPECT_DOUBLE_EQ(expected_wait({1, 10, 0.1, 8}, 0.01, {}, {1, 2, 8}), 5);
  const std::vector<Backlog> others = {{1, 100, 1, 4}};
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 0, 4}, 0.01, others, {1, 2, 8}), 0.5) << "it is next";
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 0, 3}, 0.01, others, {1, 2, 8}), 0.01) << "it has a right";
}

TEST(LatenessBound, ComesToHoldForNearlyAll) {
  std::mt19937 random(1);
  std::lognormal_distribution<double> ratio(0, 0.5);
  LatenessBound bound;
  int late = 0;
  for (int i = 0; i < 4000; ++i) {
    const double seconds = ratio(random);
    if (i >= 2000) late += seconds > bound.factor();
    bound.observe(1, seconds);
  }
  EXPECT_NEAR(late, 20, 15);
  for (int i = 0; i < 4000; ++i) bound.observe(1, 0.1);
  EXPECT_EQ(bound.factor(), 1) << "what is never late is taken at its word";
}

TEST(StartRate, GoesFromWhatIsExpectedToWhatWasSeen) {
  StartRate rate;
  EXPECT_DOUBLE_EQ(rate.per_second(3), 3);
  for (int i = 0; i < 100; ++i) rate.pass(0.1, i % 2);  // 5 a second
  EXPECT_NEAR(rate.per_second(50), 5 + 45.0 / 6, 1) << "the expectation still counts a little";
  EXPECT_NEAR(rate.per_second(5), 5, 0.5);
  for (int i = 0; i < 300; ++i) rate.pass(0.1, 1);
  EXPECT_NEAR(rate.per_second(10), 10, 1) << "long ago is forgotten";
}

}  // namespace
}  // namespace plimsoll
