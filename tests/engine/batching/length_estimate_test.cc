#include "engine/batching/length_estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace plimsoll {
namespace {

LengthEstimate of(std::uint32_t tokens, int times) {
  LengthEstimate estimate;
  for (int i = 0; i < times; ++i) estimate.add(tokens);
  return estimate;
}

TEST(LengthEstimate, HalfTheLimitUntilSomethingIsKnown) {
  EXPECT_EQ(LengthEstimate().expect(100, {}), 50U);
  EXPECT_EQ(of(10, 15).expect(100, {}), 50U);
  EXPECT_LT(of(10, 16).expect(100, {}), 20U);
}

TEST(LengthEstimate, OthersCountWhileATenantIsNew) {
  const auto others = of(10, 100);
  EXPECT_LT(LengthEstimate().expect(1000, others), 20U);
  EXPECT_GT(of(300, 16).expect(1000, others), 300U);
}

TEST(LengthEstimate, NeverOverTheLimit) {
  EXPECT_EQ(of(500, 100).expect(40, {}), 40U);
  EXPECT_EQ(of(0xffffffff, 100).expect(7, {}), 7U);
  EXPECT_EQ(LengthEstimate().expect(1, {}), 1U);
  EXPECT_EQ(LengthEstimate().expect(0, {}), 0U);
}

// Nine of ten fit, and it is no more than half over what would do.
TEST(LengthEstimate, CoversNineOfTenOfADistribution) {
  std::mt19937 random(3);
  std::lognormal_distribution<double> lengths(5, 1);
  LengthEstimate estimate;
  std::vector<std::uint32_t> all;
  for (int i = 0; i < 1000; ++i) {
    all.push_back(static_cast<std::uint32_t>(lengths(random)) + 1);
    estimate.add(all.back());
  }
  std::ranges::sort(all);
  const auto expected = estimate.expect(1'000'000, {});
  EXPECT_GE(expected, all[890]);
  EXPECT_LE(expected, all[910] * 3 / 2);
}

TEST(LengthEstimate, FollowsAChange) {
  auto estimate = of(1000, 2000);
  for (int i = 0; i < 4000; ++i) estimate.add(20);
  EXPECT_LT(estimate.expect(4096, {}), 40U);
}

}  // namespace
}  // namespace plimsoll
