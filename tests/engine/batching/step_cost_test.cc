#include "engine/batching/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace plimsoll {
namespace {

double true_seconds(std::uint32_t tokens, std::uint64_t attended, std::uint32_t rows = 1) {
  return 0.004 + 0.0005 * tokens + 1e-7 * static_cast<double>(attended) + 0.0002 * (rows - 1);
}

TEST(StepCost, StepsOfOneSizeDoNotTellWhatIsInThem) {
  StepCostEstimate estimate;
  EXPECT_FALSE(estimate.cost().known());
  EXPECT_EQ(estimate.cost().added(0, 100), 0);
  for (int i = 0; i < 100; ++i) estimate.add(200 + i % 56, 20000, 1, 0.1);
  EXPECT_EQ(estimate.cost().base, 0);
  EXPECT_NEAR(estimate.cost().added(0, 228), 0.1, 0.01);
  for (int i = 0; i < 10; ++i) estimate.add(1, 100 + i, 1, 0.005);
  EXPECT_NEAR(estimate.cost().base, 0.005, 0.001);
}

TEST(StepCost, FindsWhatStepsAreMadeOfThroughNoise) {
  StepCostEstimate estimate;
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  for (int i = 0; i < 2000; ++i) {
    const std::uint32_t tokens = 1U << (random() % 10);
    const std::uint64_t attended = std::uint64_t{tokens} * (1 + random() % 4000);
    const std::uint32_t rows = std::min(64U, 1 + static_cast<std::uint32_t>(random() % tokens));
    estimate.add(tokens, attended, rows, true_seconds(tokens, attended, rows) * noise(random));
  }
  EXPECT_NEAR(estimate.cost().base, 0.004, 0.0008);
  EXPECT_NEAR(estimate.cost().per_token, 0.0005, 0.0001);
  EXPECT_NEAR(estimate.cost().per_attended, 1e-7, 0.2e-7);
  EXPECT_NEAR(estimate.cost().per_row, 0.0002, 0.0001);
}

TEST(StepCost, ALongTimeOfSmallStepsDoesNotMakeItForgetLargeOnes) {
  StepCostEstimate estimate;
  for (const std::uint32_t tokens : {1U, 16U, 256U}) {
    for (int i = 0; i < 20; ++i)
      estimate.add(tokens, tokens * 64, 1, true_seconds(tokens, tokens * 64));
  }
  const double before = estimate.cost().added(0, 256);
  for (int i = 0; i < 5000; ++i) {
    estimate.add(1, 64 + i % 8, 1, true_seconds(1, 64) * (1 + 0.01 * (i % 5)));
  }
  EXPECT_NEAR(estimate.cost().added(0, 256), before, 0.1 * before);
}

TEST(StepCost, FollowsAMachineThatBecomesSlower) {
  StepCostEstimate estimate;
  for (const double slow : {1.0, 3.0}) {
    for (int i = 0; i < 60; ++i) {
      for (const std::uint32_t tokens : {1U, 32U, 256U}) {
        estimate.add(tokens, tokens * 64, 1, slow * true_seconds(tokens, tokens * 64));
      }
    }
  }
  const double expected = 3 * (true_seconds(257, 257 * 64) - true_seconds(1, 64));
  EXPECT_NEAR(estimate.cost().added(0, 256), expected, 0.1 * expected);
}

TEST(StepCost, ASlowSecondCountsForStepsOfAllSizes) {
  StepCostEstimate estimate;
  const auto step = [&](std::uint32_t tokens, double slow) {
    estimate.add(tokens, tokens * 64, 1, slow * true_seconds(tokens, tokens * 64));
  };
  for (int i = 0; i < 60; ++i) {
    for (const std::uint32_t tokens : {1U, 32U, 256U}) step(tokens, 1);
  }
  const double usual = estimate.cost().added(0, 256);
  for (int i = 0; i < 20; ++i) step(32, 1.5);  // some others want the machine
  EXPECT_NEAR(estimate.cost().added(0, 256), 1.5 * usual, 0.15 * usual);
  step(32, 1000);  // one that was held up tells little
  EXPECT_LT(estimate.cost().added(0, 256), 2 * usual);
  for (int i = 0; i < 40; ++i) step(32, 1);
  EXPECT_NEAR(estimate.cost().added(0, 256), usual, 0.15 * usual);
}

TEST(StepCost, CoefficientsAreNeverNegative) {
  StepCostEstimate estimate;
  estimate.add(1, 1, 1, 0.1);  // the first step is slow
  estimate.add(64, 64 * 32, 64, 0.05);
  estimate.add(256, 256 * 2000, 1, 0.06);
  EXPECT_GE(estimate.cost().base, 0);
  EXPECT_GE(estimate.cost().per_token, 0);
  EXPECT_GE(estimate.cost().per_attended, 0);
  EXPECT_GE(estimate.cost().per_row, 0);
}

TEST(StepCost, StepsThatAllTakeTheSameHaveABaseAndHardlyAnyTokens) {
  StepCostEstimate estimate;
  for (int i = 0; i < 20; ++i) estimate.add(1, 100, 1, 0.03);
  EXPECT_FALSE(estimate.sure());
  for (int i = 0; i < 5; ++i) estimate.add(64, 6400, 64, 0.03);
  EXPECT_TRUE(estimate.sure());
  EXPECT_NEAR(estimate.cost().base, 0.03, 0.001);
  EXPECT_LT(estimate.cost().added(0, 500), 0.02);
}

TEST(StepCost, SaysHowManyTokensFitIntoATime) {
  const StepCost cost{0.004, 0.0005, 1e-7};
  for (const std::uint32_t context : {0U, 500U, 8000U}) {
    for (const double seconds : {0.0004, 0.01, 0.3}) {
      const std::uint32_t tokens = cost.tokens_within(seconds, context);
      EXPECT_LE(cost.added(context, tokens), seconds * 1.0001);
      EXPECT_GT(cost.added(context, tokens + 1), seconds);
    }
  }
  EXPECT_EQ(cost.tokens_within(0, 10), 0U);
  EXPECT_EQ(StepCost{}.tokens_within(1, 10), 0U);
}

}  // namespace
}  // namespace plimsoll
