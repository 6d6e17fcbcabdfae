#include "cli/scorecard/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace plimsoll::cli::scorecard {
namespace {

TEST(Random, LogAndExpAgreeWithTheLibrary) {
  for (double x = 1e-12; x < 1e12; x *= 1.37) {
    EXPECT_NEAR(portable_log(x), std::log(x), 4e-16 * std::max(1.0, std::abs(std::log(x)))) << x;
  }
  EXPECT_EQ(portable_log(1), 0);
  for (double x = -600; x < 600; x += 0.731) {
    EXPECT_NEAR(portable_exp(x) / std::exp(x), 1, 2e-15) << x;
  }
  EXPECT_EQ(portable_exp(0), 1);
}

// If these change, the same seed gives other traffic than it did: older scorecards cannot be
// repeated.
TEST(Random, GoldenNumbers) {
  Draws draws(42, Purpose::arrival, 7);
  EXPECT_EQ(draws.bits(), 14038997371507945772U);
  EXPECT_EQ(draws.below(1000), 907U);
  EXPECT_EQ(draws.unit(), 0x1.fb32b4955ff5dp-1);
  EXPECT_EQ(draws.normal(), 0x1.c5f9f1bcc2dcap-1);
  EXPECT_EQ(draws.gamma(0.25), 0x1.a261efa3b93d7p-8);
}

TEST(Random, PurposesAndIndexesHaveTheirOwnNumbers) {
  const auto first = [](std::uint64_t seed, Purpose purpose, std::uint64_t index) {
    return Draws(seed, purpose, index).bits();
  };
  const auto one = first(1, Purpose::tenant, 1);
  EXPECT_EQ(one, first(1, Purpose::tenant, 1));
  EXPECT_NE(one, first(2, Purpose::tenant, 1));
  EXPECT_NE(one, first(1, Purpose::prefix, 1));
  EXPECT_NE(one, first(1, Purpose::tenant, 2));
}

struct Moments {
  double mean = 0;
  double variance = 0;
};
template <class Draw>
Moments moments(Draw draw) {
  constexpr int n = 20'000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < n; ++i) {
    Draws draws(3, Purpose::token, static_cast<std::uint64_t>(i));
    const double x = draw(draws);
    sum += x;
    squares += x * x;
  }
  const double mean = sum / n;
  return {mean, squares / n - mean * mean};
}

TEST(Random, Moments) {
  const auto uniform = moments([](Draws& d) { return d.unit(); });
  EXPECT_NEAR(uniform.mean, 0.5, 0.01);
  EXPECT_NEAR(uniform.variance, 1.0 / 12, 0.003);
  const auto normal = moments([](Draws& d) { return d.normal(); });
  EXPECT_NEAR(normal.mean, 0, 0.03);
  EXPECT_NEAR(normal.variance, 1, 0.04);
  const auto exponential = moments([](Draws& d) { return d.exponential(); });
  EXPECT_NEAR(exponential.mean, 1, 0.03);
  EXPECT_NEAR(exponential.variance, 1, 0.1);
  for (const double shape : {0.25, 1.0, 4.0}) {
    const auto gamma = moments([&](Draws& d) { return d.gamma(shape); });
    EXPECT_NEAR(gamma.mean, shape, 0.04 * shape + 0.01);
    EXPECT_NEAR(gamma.variance, shape, 0.12 * shape);
  }
}

TEST(Random, ZipfWeights) {
  const Zipf zipf(4, 1);
  std::vector<int> counts(4);
  for (int i = 0; i < 25'000; ++i) {
    Draws draws(9, Purpose::tenant, static_cast<std::uint64_t>(i));
    ++counts.at(zipf.draw(draws));
  }
  // 1 + 1/2 + 1/3 + 1/4 = 25/12
  for (int k = 0; k < 4; ++k) EXPECT_NEAR(counts.at(k), 12'000.0 / (k + 1), 400) << k;
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
