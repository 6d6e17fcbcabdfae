#include "cli/scorecard/tally.h"

#include <gtest/gtest.h>

namespace plimsoll::cli::scorecard {
namespace {

Outcome finished(double ttft_s, double itl_s) {
  Outcome o;
  o.first_token_s = ttft_s;
  o.gaps = {{itl_s, 1}, {itl_s * 2, 2}};
  o.end_to_end_s = ttft_s + 3 * itl_s;
  o.prompt_tokens = 10;
  o.cached_tokens = 4;
  o.generated_tokens = 4;
  return o;
}
Outcome refused(const std::string& reason) {
  Outcome o;
  o.end_to_end_s = 0.01;
  o.refusal = reason;
  return o;
}

TEST(Tally, CountsByTrafficAndTenant) {
  Tally tally({1, 0.1}, 2);
  Request request;
  tally.add(request, finished(0.5, 0.05));
  request.traffic = 1;
  request.tenant = 7;
  tally.add(request, finished(2, 0.05));
  tally.add(request, finished(0.5, 0.11));
  tally.add(request, refused("overloaded"));
  Outcome broken = finished(0.5, 0.05);
  broken.refusal = "unavailable";
  tally.add(request, broken);
  tally.add_not_sent();

  const auto& all = tally.all().counts;
  EXPECT_EQ(all.sent, 5U);
  EXPECT_EQ(all.finished, 3U);
  EXPECT_EQ(all.good, 1U) << "one was late, one was slow";
  EXPECT_EQ(all.refused, 1U);
  EXPECT_EQ(all.broken, 1U);
  EXPECT_EQ(all.prompt_tokens, 30U);
  EXPECT_EQ(all.cached_tokens, 12U);
  EXPECT_EQ(all.generated_tokens, 12U);
  EXPECT_EQ(tally.traffic()[0].counts.sent, 1U);
  EXPECT_EQ(tally.traffic()[1].counts.finished, 2U);
  EXPECT_EQ(tally.tenants().at(7).sent, 4U);
  EXPECT_EQ(tally.refusals().at("overloaded"), 1U);
  EXPECT_EQ(tally.refusals().at("unavailable"), 1U);
  EXPECT_EQ(tally.not_sent(), 1U);
}

TEST(Tally, TokensThatComeTogetherShareTheirWait) {
  Tally tally({1, 0.1}, 1);
  Outcome o = finished(0.5, 0);
  o.gaps = {{0.3, 3}, {0.1, 1}};
  tally.add({}, o);
  EXPECT_EQ(tally.all().latency.itl.count(), 4U);
  EXPECT_NEAR(tally.all().latency.itl.max_s(), 0.1, 1e-9);
  EXPECT_EQ(tally.all().counts.good, 1U) << "the mean is the objective's to judge";
}

TEST(Tally, RefusalsDoNotCountAsLatency) {
  Tally tally({}, 1);
  tally.add({}, refused("x"));
  EXPECT_EQ(tally.all().latency.ttft.count(), 0U);
  EXPECT_EQ(tally.all().latency.end_to_end.count(), 0U);
  EXPECT_EQ(tally.all().latency.refusal.count(), 1U);
}

TEST(Tally, AnEmbeddingComesAllAtOnce) {
  Tally tally({1, 0.1}, 1);
  Outcome o;
  o.end_to_end_s = 0.9;
  tally.add({}, o);
  EXPECT_EQ(tally.all().counts.good, 1U);
  EXPECT_NEAR(tally.all().latency.ttft.max_s(), 0.9, 1e-9);
}

TEST(Tally, ReasonsAreBounded) {
  Tally tally({}, 1);
  for (int i = 0; i < 1000; ++i) tally.add({}, refused("reason-" + std::to_string(i)));
  EXPECT_EQ(tally.refusals().size(), 65U);
  EXPECT_EQ(tally.refusals().at("other"), 936U);
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
