#include "cli/scorecard/distribution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace plimsoll::cli::scorecard {
namespace {

std::vector<std::uint32_t> lengths(const Lengths& lengths, int n = 10'001) {
  std::vector<std::uint32_t> out;
  for (int i = 0; i < n; ++i) {
    Draws draws(5, Purpose::prompt_length, static_cast<std::uint64_t>(i));
    out.push_back(draw(lengths, draws));
  }
  std::ranges::sort(out);
  return out;
}

TEST(Lengths, Fixed) {
  Lengths l;
  l.median = 77;
  EXPECT_EQ(lengths(l, 3), (std::vector<std::uint32_t>{77, 77, 77}));
}

TEST(Lengths, UniformReachesBothEnds) {
  Lengths l;
  l.kind = Lengths::Kind::uniform;
  l.min = 10;
  l.max = 19;
  const auto all = lengths(l);
  EXPECT_EQ(all.front(), 10U);
  EXPECT_EQ(all.back(), 19U);
  EXPECT_NEAR(std::ranges::count(all, 10U), 1000, 120);
}

TEST(Lengths, LognormalHasItsMedianAndSpread) {
  Lengths l;
  l.kind = Lengths::Kind::lognormal;
  l.median = 400;
  l.sigma = 0.5;
  const auto all = lengths(l);
  EXPECT_NEAR(all[5000], 400, 12);
  EXPECT_NEAR(std::log(all[8413] / 400.0), 0.5, 0.03);  // one sigma
  l.max = 500;
  l.min = 300;
  const auto clipped = lengths(l);
  EXPECT_EQ(clipped.front(), 300U);
  EXPECT_EQ(clipped.back(), 500U);
}

TEST(Lengths, ZipfFallsWithItsExponent) {
  Lengths l;
  l.kind = Lengths::Kind::zipf;
  l.min = 1;
  l.max = 1000;
  l.exponent = 2;
  const auto all = lengths(l);
  EXPECT_EQ(all.front(), 1U);
  EXPECT_LE(all.back(), 1000U);
  // Of the continuous distribution over [1, 1001), below 2 is (1 - 1/2) / (1 - 1/1001).
  EXPECT_NEAR(std::ranges::count(all, 1U), 5000, 200);
  l.exponent = 1;
  EXPECT_NEAR(lengths(l)[5000], std::sqrt(1001), 3);
}

TEST(Lengths, BimodalHasTwoHumps) {
  Lengths l;
  l.kind = Lengths::Kind::bimodal;
  l.median = 100;
  l.long_median = 5000;
  l.long_share = 0.25;
  l.sigma = 0.2;
  const auto all = lengths(l);
  EXPECT_NEAR(std::ranges::count_if(all, [](auto n) { return n > 1000; }), 2500, 150);
  EXPECT_NEAR(all[3750], 100, 5);
}

std::vector<double> times(const Arrivals& arrivals, int n) {
  ArrivalTimes clock(arrivals, 11);
  std::vector<double> out;
  for (int i = 0; i < n; ++i) out.push_back(clock.next_s());
  return out;
}

class EveryArrival : public ::testing::TestWithParam<Arrivals::Kind> {};

TEST_P(EveryArrival, KeepsItsRateAndNeverGoesBack) {
  Arrivals a;
  a.kind = GetParam();
  a.rate = 20;
  a.period_s = 10;
  const auto all = times(a, 20'000);
  EXPECT_TRUE(std::ranges::is_sorted(all));
  EXPECT_GT(all.front(), 0);
  EXPECT_NEAR(all.back(), 1000, 50);
}
INSTANTIATE_TEST_SUITE_P(Kinds, EveryArrival,
                         ::testing::Values(Arrivals::Kind::poisson, Arrivals::Kind::gamma,
                                           Arrivals::Kind::uniform, Arrivals::Kind::on_off,
                                           Arrivals::Kind::diurnal));

double variation_of_gaps(const std::vector<double>& times) {
  double sum = 0;
  double squares = 0;
  for (std::size_t i = 1; i < times.size(); ++i) {
    const double gap = times[i] - times[i - 1];
    sum += gap;
    squares += gap * gap;
  }
  const auto n = static_cast<double>(times.size() - 1);
  return std::sqrt(squares / n - sum / n * sum / n) / (sum / n);
}

TEST(Arrivals, GapsVaryAsTold) {
  Arrivals a;
  EXPECT_NEAR(variation_of_gaps(times(a, 20'000)), 1, 0.05);
  a.kind = Arrivals::Kind::gamma;
  a.cv = 3;
  EXPECT_NEAR(variation_of_gaps(times(a, 20'000)), 3, 0.3);
  a.kind = Arrivals::Kind::uniform;
  EXPECT_NEAR(variation_of_gaps(times(a, 100)), 0, 1e-9);
}

TEST(Arrivals, NothingComesWhileOff) {
  Arrivals a;
  a.kind = Arrivals::Kind::on_off;
  a.rate = 10;
  a.on_s = 2;
  a.off_s = 3;
  for (const double t : times(a, 5000)) EXPECT_LT(std::fmod(t, 5), 2 + 1e-9);
}

TEST(Arrivals, ADayHasItsHighAndItsLow) {
  Arrivals a;
  a.kind = Arrivals::Kind::diurnal;
  a.rate = 50;
  a.period_s = 40;
  a.depth = 0.8;
  int high = 0;
  int low = 0;
  for (const double t : times(a, 20'000)) {
    const double turn = std::fmod(t / 40, 1);
    high += turn > 0.2 && turn < 0.3;
    low += turn > 0.7 && turn < 0.8;
  }
  EXPECT_NEAR(static_cast<double>(high) / low, 1.8 / 0.2, 3);
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
