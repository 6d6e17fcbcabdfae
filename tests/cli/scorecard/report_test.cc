#include "cli/scorecard/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/scorecard/sample_card.h"

namespace plimsoll::cli::scorecard {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Report, HasTheFigures) {
  const auto card = sample_card();
  EXPECT_EQ(card["requests"]["due"], 11);
  EXPECT_EQ(card["requests"]["finished"], 9);
  EXPECT_EQ(card["requests"]["good"], 5) << "the sixth takes 1.2 s";
  EXPECT_EQ(card["requests"]["refusals"]["overloaded"], 1);
  EXPECT_DOUBLE_EQ(card["requests"]["refused_share"], 2.0 / 11);
  EXPECT_DOUBLE_EQ(card["throughput"]["requests_per_second"], 0.25);
  EXPECT_DOUBLE_EQ(card["throughput"]["prompt_tokens_per_second"], 25);
  EXPECT_DOUBLE_EQ(card["goodput"]["share"], 5.0 / 11);
  EXPECT_NEAR(card["latency"]["ttft"]["p50_ms"].get<double>(), 1000, 8);
  EXPECT_EQ(card["latency"]["refusal"]["count"], 1);
  EXPECT_EQ(card["memory"]["nodes_used"]["peak_bytes"], 3LL << 30);
  EXPECT_EQ(card["memory"]["nodes_used"]["before_bytes"], 2LL << 30);
  EXPECT_EQ(card["memory"]["active_tenants"], 2);
  EXPECT_EQ(card["memory"]["per_active_tenant_bytes"], 1LL << 30);
  EXPECT_EQ(card["memory"]["components"]["kv"]["peak_bytes"], 65 << 20);
  EXPECT_EQ(card["traffic"][1]["name"], "flood");
  EXPECT_EQ(card["traffic"][1]["sent"], 2);
  EXPECT_EQ(card["senders"].size(), 5U);
}

TEST(Report, RanksTheOffendersWorstFirst) {
  const auto worst = sample_card()["offenders"];
  ASSERT_EQ(worst["kv_byte_seconds_per_token"].size(), 2U);
  EXPECT_EQ(worst["kv_byte_seconds_per_token"][0]["tenant"], "flooder")
      << "it has less of them than the victim, and far fewer tokens";
  EXPECT_EQ(worst["kv_byte_seconds_per_token"][0]["kv_byte_seconds_per_token"], 5e5);
  EXPECT_EQ(worst["peak_bytes"][1]["tenant"], "victim");
  ASSERT_EQ(worst["refused"].size(), 1U) << "who has none is no offender";
  EXPECT_EQ(worst["refused"][0]["refused"], 5);
}

TEST(Report, CostOf1000Requests) {
  EXPECT_DOUBLE_EQ(cost_of_1000({0.4, 0.02}, 3, 0.01, 9), (0.4 + 0.06) * 0.01 * 1000 / 9);
  EXPECT_EQ(cost_of_1000({0.4, 0.02}, 3, 0.01, 0), 0);
  EXPECT_DOUBLE_EQ(sample_card()["cost"]["per_1000_requests"],
                   cost_of_1000({0.4, 0.02}, 3, 0.01, 9));
}

TEST(Report, IsReadAgainAsItWasWritten) {
  const auto card = sample_card();
  const auto again = parse_scorecard(card.dump(2), "a.json");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, card);
}

TEST(Report, TheTableSaysWhatMatters) {
  const auto text = table(sample_card());
  ASSERT_TRUE(text) << text.error().message;
  for (const char* part :
       {"two nodes\nmix flood, seed 1", "11 due, 9 finished, 1 refused", "1 not sent",
        "  1 overloaded", "time to first token", "flood: time to first token",
        "used by the nodes   2.0 GiB", "BIGGEST OFFENDERS", "perplexity 20.500",
        "1 of 1 tasks right",
        "(0.4 + 0.02 × 3.000 GiB at the peak) × 0.010000 h × 1,000 / 9 finished"}) {
    EXPECT_THAT(*text, HasSubstr(part));
  }
  auto plain = sample_card();
  plain["memory"] = nullptr;
  plain["quality"] = nullptr;
  plain["conditions"]["prices"] = {{"machine_hour", 0.0}, {"memory_gib_hour", 0.0}};
  EXPECT_THAT(*table(plain), Not(::testing::AnyOf(HasSubstr("MEMORY"), HasSubstr("perplexity"),
                                                  HasSubstr("cost"))));
}

TEST(Report, WhatIsNoScorecardIsToldSo) {
  for (const char* text : {"", "[]", "{}", R"({"schema": 1})", "{"}) {
    const auto card = parse_scorecard(text, "x.json");
    ASSERT_FALSE(card) << text;
    EXPECT_THAT(card.error().message, HasSubstr("x.json is not a scorecard"));
  }
  const auto later = parse_scorecard(R"({"schema": "plimsoll.scorecard/2"})", "x.json");
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, ErrorCode::unsupported);
  auto card = sample_card();
  card["latency"].erase("ttft");
  EXPECT_EQ(table(card).error().code, ErrorCode::malformed);
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
