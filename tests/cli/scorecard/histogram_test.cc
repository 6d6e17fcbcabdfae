#include "cli/scorecard/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cli/scorecard/random.h"

namespace plimsoll::cli::scorecard {
namespace {

TEST(Histogram, OfNothing) {
  const Histogram h;
  EXPECT_EQ(h.count(), 0U);
  EXPECT_EQ(h.quantile_s(0.5), 0);
  EXPECT_EQ(h.mean_s(), 0);
}

TEST(Histogram, SmallOnesAreExact) {
  Histogram h;
  for (int us = 1; us <= 100; ++us) h.add(us * 1e-6);
  EXPECT_NEAR(h.quantile_s(0.5), 50e-6, 1e-12);
  EXPECT_NEAR(h.quantile_s(0.99), 99e-6, 1e-12);
  EXPECT_NEAR(h.quantile_s(1), 100e-6, 1e-12);
  EXPECT_NEAR(h.quantile_s(0), 1e-6, 1e-12);
  EXPECT_NEAR(h.mean_s(), 50.5e-6, 1e-12);
}

TEST(Histogram, PercentilesAreWithinAPercentAndNeverUnder) {
  Histogram h;
  std::vector<double> all;
  for (std::uint64_t i = 0; i < 5000; ++i) {
    Draws draws(1, Purpose::token, i);
    all.push_back(portable_exp(3 * draws.normal()));  // from ms to hours
    h.add(all.back());
  }
  std::ranges::sort(all);
  for (const double q : {0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double truth = all[static_cast<std::size_t>(std::ceil(q * 5000)) - 1];
    EXPECT_GE(h.quantile_s(q), truth * (1 - 1e-9)) << q;
    EXPECT_LE(h.quantile_s(q), truth * 1.008 + 1e-6) << q;
  }
  EXPECT_EQ(h.max_s(), all.back());
}

TEST(Histogram, CountsAndExtremes) {
  Histogram h;
  h.add(0, 9);
  h.add(1e9);
  EXPECT_EQ(h.count(), 10U);
  EXPECT_EQ(h.quantile_s(0.9), 0);
  EXPECT_GT(h.quantile_s(1), 1e6);
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
