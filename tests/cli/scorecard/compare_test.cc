#include "cli/scorecard/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cli/scorecard/sample_card.h"

namespace plimsoll::cli::scorecard {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

double ratio_of(const Comparison& comparison, const std::string& metric) {
  const auto found = std::ranges::find(comparison.metrics, metric, &Difference::metric);
  return found == comparison.metrics.end() ? -1 : found->ratio;
}

TEST(Compare, WithItselfNothingDiffers) {
  const auto same = compare(sample_card(), sample_card());
  ASSERT_TRUE(same);
  EXPECT_THAT(same->conditions, IsEmpty());
  for (const auto& m : same->metrics) EXPECT_EQ(m.ratio, 1) << m.metric;
  EXPECT_THAT(table(*same), HasSubstr("The conditions were the same."));
}

TEST(Compare, RatiosAndConditions) {
  const auto c = compare(sample_card(), sample_card({.ttft_s = 0.4, .seed = 2}));
  ASSERT_TRUE(c);
  EXPECT_NEAR(ratio_of(*c, "p99_ttft"), 2, 0.02);
  EXPECT_EQ(ratio_of(*c, "p99_itl"), 1);
  EXPECT_NEAR(ratio_of(*c, "goodput"), 0.4, 0.001);
  EXPECT_THAT(
      c->conditions,
      ElementsAre("seed: 1 -> 2", "traffic fingerprint: 0000000000000001 -> 0000000000000002"));
  const auto text = table(*c);
  EXPECT_THAT(text, HasSubstr("worse"));
  EXPECT_THAT(text, HasSubstr("3.0 GiB    3.0 GiB  1.000"));
  EXPECT_THAT(text, HasSubstr("The conditions differ:\n  seed: 1 -> 2\n"));
}

TEST(Compare, AgreementEndsAtTheFirstTokenThatDiffers) {
  const auto c = compare(sample_card(), sample_card({.answer = {1, 2, 9, 4}}));
  ASSERT_TRUE(c);
  EXPECT_EQ(ratio_of(*c, "task_agreement"), 0.5);
  EXPECT_EQ(agreement({{"a", "", {1, 2}, false}}, {{"a", "", {1, 2, 3, 4}, false}}), 0.5);
  EXPECT_EQ(agreement({{"a", "", {}, false}}, {{"a", "", {}, false}}), 1);
  EXPECT_EQ(agreement({{"a", "", {1}, false}}, {{"b", "", {1}, false}}), 0);
}

TEST(Compare, WhatOneOfThemLacksIsNotCompared) {
  auto bare = sample_card();
  bare["memory"] = nullptr;
  bare["quality"] = nullptr;
  const auto c = compare(sample_card(), bare);
  ASSERT_TRUE(c);
  EXPECT_EQ(ratio_of(*c, "peak_kv"), -1);
  EXPECT_EQ(ratio_of(*c, "task_agreement"), -1);
  EXPECT_EQ(ratio_of(*c, "p50_ttft"), 1);
  const auto missing = passed(*parse_threshold("peak_kv>1"), *c);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::failed_precondition);
}

TEST(Compare, FromNothingToSomethingIsInfinite) {
  auto none = sample_card();
  none["requests"]["refused_share"] = 0.0;
  const auto c = compare(none, sample_card());
  ASSERT_TRUE(c);
  EXPECT_TRUE(*passed(*parse_threshold("refused_share>100"), *c));
  EXPECT_TRUE(to_json(*c).dump().find("inf") == std::string::npos) << "JSON has no word for it";
}

TEST(Threshold, BothWays) {
  const auto c = compare(sample_card(), sample_card({.ttft_s = 0.4}));
  ASSERT_TRUE(c);
  EXPECT_TRUE(*passed(*parse_threshold("p99_ttft>1.2"), *c));
  EXPECT_FALSE(*passed(*parse_threshold("p99_ttft>2.5"), *c));
  EXPECT_TRUE(*passed(*parse_threshold("goodput<0.9"), *c));
  EXPECT_FALSE(*passed(*parse_threshold("task_agreement<1"), *c));
}

TEST(Threshold, WrongOnesAreToldSo) {
  for (const char* text : {"", "p99_ttft", "p99_ttft>", "p99_ttft=1", "p99_ttft>x", "p99_ttft>1x",
                           "p99_ttft>=1", "p99_ttft>nan", ">1"}) {
    EXPECT_FALSE(parse_threshold(text)) << text;
  }
  EXPECT_THAT(parse_threshold("p98_ttft>1").error().message, HasSubstr("p50_ttft, p90_ttft"));
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
