#include "cli/scorecard/mix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace plimsoll::cli::scorecard {
namespace {

using ::testing::HasSubstr;

TEST(Mix, NamedOnesAreFoundAndWrongNamesGetTheChoices) {
  for (const auto& mix : named_mixes()) EXPECT_EQ(named_mix(mix.name)->traffic, mix.traffic);
  const auto wrong = named_mix("chatt");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::not_found);
  EXPECT_THAT(wrong.error().message, HasSubstr("chat, rag, agents"));
}

// What a scorecard records is a mix again, and the same one.
TEST(Mix, WhatIsWrittenIsReadAgain) {
  for (const auto& mix : named_mixes()) {
    const auto again = parse_mix(to_json(mix).dump(2), "x.json");
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(to_json(*again), to_json(mix));
    EXPECT_EQ(tenants_of(*again), tenants_of(mix));
  }
}

TEST(Mix, YamlOfOnesOwn) {
  const auto mix = parse_mix(R"(
name: own
arrivals: {kind: gamma, rate: 3.5, cv: 4}
traffic:
  - name: short
    weight: 3
    prompt: {kind: uniform, min: 5, max: 9}
    output: {kind: fixed, median: 7}
    tenants: {first: 2, count: 3, skew: 0}
    prefix: {share: 0.5, tokens: 64, groups: 2}
  - embed: true
)",
                             "own.yaml");
  ASSERT_TRUE(mix) << mix.error().message;
  EXPECT_EQ(mix->arrivals.kind, Arrivals::Kind::gamma);
  EXPECT_EQ(mix->arrivals.rate, 3.5);
  ASSERT_EQ(mix->traffic.size(), 2U);
  EXPECT_EQ(mix->traffic[0].prompt.max, 9U);
  EXPECT_EQ(mix->traffic[0].prefix.tokens, 64U);
  EXPECT_EQ(mix->traffic[1].name, "traffic-2");
  EXPECT_TRUE(mix->traffic[1].embed);
  EXPECT_EQ(tenants_of(*mix), 5U);
}

struct Wrong {
  const char* text;
  const char* message;
};
class WrongMix : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongMix, IsToldWithItsLine) {
  const auto mix = parse_mix(GetParam().text, "m.yaml");
  ASSERT_FALSE(mix);
  EXPECT_THAT(mix.error().message, HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    Mixes, WrongMix,
    ::testing::Values(Wrong{"traffic: [{}]\nname: [", "m.yaml:2: "},
                      Wrong{"traffic:\n  - prompt: {sigam: 1}\n",
                            "m.yaml:2: no field mix.traffic[0].prompt.sigam"},
                      Wrong{"traffic:\n  - prompt:\n      kind: lognormall\n",
                            "m.yaml:3: mix.traffic[0].prompt.kind"},
                      Wrong{"traffic: [{}]\narrivals: {rate: 0}\n",
                            "m.yaml:2: mix.arrivals.rate is not a number"},
                      Wrong{"traffic: [{}]\narrivals: {rate: .nan}\n",
                            "m.yaml:2: mix.arrivals.rate"},
                      Wrong{"traffic: [{prompt: {min: 1.5}}]\n",
                            "m.yaml:1: mix.traffic[0].prompt.min is not a whole"},
                      Wrong{"traffic: [{prompt: {min: 9, max: 8}}]\n", "min is over max"},
                      Wrong{"traffic: [{embed: 7}]\n", "neither true nor false"},
                      Wrong{"traffic: [{tenants: {count: 0}}]\n", "tenants.count"},
                      Wrong{"traffic: 7\n", "is not a list"}, Wrong{"7\n", "is not a map"},
                      Wrong{"", "is not a map"}, Wrong{"name: x\n", "traffic is empty"}));

}  // namespace
}  // namespace plimsoll::cli::scorecard
