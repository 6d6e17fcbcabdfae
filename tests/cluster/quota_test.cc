#include "cluster/quota.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace plimsoll::cluster {
namespace {

Tenant tenant(Quota quota, std::string name = "t") {
  Tenant tenant;
  tenant.name = std::move(name);
  tenant.quota = std::move(quota);
  return tenant;
}

class QuotasTest : public testing::Test {
 protected:
  void set(const Quota& quota, double share = 1, Time now = Time(0)) {
    quotas_.set_tenant(tenant(quota), now);
    quotas_.set_share("t", share, Quotas::no_expiry, now);
  }
  Decision ask(double now, const Ask& ask = {}) { return quotas_.admit("t", ask, Time(now)); }
  Verdict verdict(double now, const Ask& asked = {}) { return ask(now, asked).verdict; }
  Quotas quotas_;
};

TEST_F(QuotasTest, AsksWhoItIsAndWhatItIs) {
  EXPECT_EQ(verdict(0), Verdict::unknown_tenant);
  set({.prompt_tokens = 100, .generated_tokens = 50, .models = {"a", "b"}});
  EXPECT_EQ(verdict(0, {.model = "c"}), Verdict::model);
  EXPECT_EQ(verdict(0, {.model = "a", .prompt_tokens = 101}), Verdict::prompt_length);
  const auto refused = ask(0, {.model = "a", .generated_tokens = 51});
  EXPECT_EQ(refused.verdict, Verdict::generation_cap);
  EXPECT_EQ(refused.limit, 50);
  EXPECT_EQ(refused.asked, 51);
  EXPECT_EQ(refused.retry_after.count(), 0) << "coming again does not help";
  EXPECT_EQ(verdict(0, {.model = "b", .prompt_tokens = 100, .generated_tokens = 50}),
            Verdict::admitted);
  auto suspended = tenant({});
  suspended.suspended = true;
  quotas_.set_tenant(suspended, Time(0));
  EXPECT_EQ(verdict(0), Verdict::suspended);
}

TEST_F(QuotasTest, ATiersCapsAreForWhoHasNoneOfItsOwn) {
  quotas_.set_tiers({RequestCaps{}, RequestCaps{.prompt_tokens = 100, .request_tokens = 150},
                     RequestCaps{.generated_tokens = 10}});
  set({});
  EXPECT_EQ(verdict(0, {.prompt_tokens = 101}), Verdict::prompt_length);
  EXPECT_EQ(verdict(0, {.prompt_tokens = 100, .generated_tokens = 50}), Verdict::admitted);
  const auto refused = ask(0, {.sequences = 2, .prompt_tokens = 51, .generated_tokens = 50});
  EXPECT_EQ(refused.verdict, Verdict::token_budget) << "every sequence's tokens count";
  EXPECT_STREQ(reason_of(refused.verdict), "tenant_token_budget");
  EXPECT_EQ(refused.limit, 150);
  EXPECT_EQ(refused.asked, 151);
  EXPECT_EQ(refused.retry_after.count(), 0);
  set({.prompt_tokens = 1000});
  EXPECT_EQ(verdict(0, {.prompt_tokens = 140}), Verdict::admitted) << "its own counts";
  EXPECT_EQ(verdict(0, {.prompt_tokens = 151}), Verdict::token_budget)
      << "what it lacks is filled in";
  auto cheap = tenant({});
  cheap.tier = Tier::best_effort;
  quotas_.set_tenant(cheap, Time(0));
  EXPECT_EQ(verdict(0, {.prompt_tokens = 5000}), Verdict::admitted);
  EXPECT_EQ(verdict(0, {.generated_tokens = 11}), Verdict::generation_cap);
}

TEST_F(QuotasTest, ABurstIsOverTheLimitAndOnlyWhereThereIsOne) {
  set({.kv_bytes = 1000, .burst_bytes = 200});
  EXPECT_EQ(verdict(0, {.kv_bytes = 1100}), Verdict::kv_bytes);
  EXPECT_EQ(verdict(0, {.kv_bytes = 1201, .may_burst = true}), Verdict::kv_bytes);
  EXPECT_EQ(verdict(0, {.kv_bytes = 1200, .may_burst = true}), Verdict::admitted);
  set({.burst_bytes = 200});  // no limit stays no limit
  EXPECT_EQ(verdict(0, {.kv_bytes = 5000, .may_burst = true}), Verdict::admitted);
}

TEST_F(QuotasTest, EndlessRepeatsAreForWhoPaysForThem) {
  set({});
  EXPECT_EQ(verdict(0, {.repeats = true}), Verdict::prompt_repeats);
  auto paying = tenant({});
  paying.tier = Tier::guaranteed;
  quotas_.set_tenant(paying, Time(0));
  EXPECT_EQ(verdict(0, {.repeats = true}), Verdict::admitted);
}

TEST_F(QuotasTest, CapsWhatIsHeldAtOnce) {
  set({.sequences = 4, .kv_bytes = 1000});
  EXPECT_EQ(verdict(0, {.sequences = 3, .kv_bytes = 600}), Verdict::admitted);
  const auto refused = ask(0, {.sequences = 2});
  EXPECT_EQ(refused.verdict, Verdict::sequences);
  EXPECT_EQ(refused.limit, 4);
  EXPECT_EQ(refused.used, 3);
  EXPECT_EQ(refused.asked, 2);
  EXPECT_GT(refused.retry_after.count(), 0);
  EXPECT_EQ(ask(0, {.sequences = 5}).retry_after.count(), 0) << "never";
  EXPECT_EQ(verdict(0, {.sequences = ~0U}), Verdict::sequences) << "no wrap-around";
  EXPECT_EQ(verdict(0, {.kv_bytes = 401}), Verdict::kv_bytes);
  EXPECT_EQ(quotas_.sequences("t"), 3U) << "all or nothing";
  EXPECT_EQ(verdict(0, {.kv_bytes = 400}), Verdict::admitted);
  quotas_.release("t", 2, 600);
  EXPECT_EQ(verdict(0, {.sequences = 2, .kv_bytes = 600}), Verdict::admitted);
}

TEST_F(QuotasTest, ABucketGivesABurstThenTheRate) {
  set({.requests_per_second = 2, .burst_seconds = 1.5});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(verdict(10), Verdict::admitted);
  const auto refused = ask(10);
  EXPECT_EQ(refused.verdict, Verdict::requests_rate);
  EXPECT_EQ(refused.retry_after.count(), 500);
  EXPECT_EQ(verdict(10.499), Verdict::requests_rate);
  EXPECT_EQ(verdict(10.5), Verdict::admitted);
  EXPECT_EQ(verdict(1000), Verdict::admitted);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(verdict(1000), Verdict::admitted);
  EXPECT_EQ(verdict(1000), Verdict::requests_rate) << "no more than the burst is saved up";
}

TEST_F(QuotasTest, PromptTokensAreTakenAtOnce) {
  set({.prompt_tokens_per_second = 100, .burst_seconds = 2});
  EXPECT_EQ(verdict(0, {.prompt_tokens = 150}), Verdict::admitted);
  const auto refused = ask(0, {.prompt_tokens = 60});
  EXPECT_EQ(refused.verdict, Verdict::prompt_rate);
  EXPECT_EQ(refused.retry_after.count(), 100);
  EXPECT_EQ(ask(0, {.prompt_tokens = 201}).retry_after.count(), 0) << "over the bucket: never";
  EXPECT_EQ(verdict(0.1, {.prompt_tokens = 60}), Verdict::admitted);
}

TEST_F(QuotasTest, GeneratedTokensArePaidBack) {
  set({.generated_tokens_per_second = 10, .burst_seconds = 2});
  EXPECT_EQ(verdict(0), Verdict::admitted);
  EXPECT_EQ(verdict(0), Verdict::admitted) << "nothing is generated yet";
  quotas_.generated("t", 50, Time(0));  // 30 below nothing
  const auto refused = ask(0);
  EXPECT_EQ(refused.verdict, Verdict::generated_rate);
  EXPECT_EQ(refused.retry_after.count(), 3100) << "31 tokens at 10 a second";
  EXPECT_EQ(refused.generated_tokens.remaining, 0);
  EXPECT_DOUBLE_EQ(refused.generated_tokens.reset_s, 5);
  EXPECT_EQ(verdict(3.099), Verdict::generated_rate);
  EXPECT_EQ(verdict(3.1), Verdict::admitted);
}

TEST_F(QuotasTest, SaysWhenTheLastOfSeveralBucketsIsReady) {
  set({.requests_per_second = 1, .generated_tokens_per_second = 10, .burst_seconds = 1});
  EXPECT_EQ(verdict(0), Verdict::admitted);
  quotas_.generated("t", 39, Time(0));
  const auto refused = ask(0);
  EXPECT_EQ(refused.verdict, Verdict::generated_rate);
  EXPECT_EQ(refused.retry_after.count(), 3000);
  EXPECT_EQ(verdict(3), Verdict::admitted);
}

TEST_F(QuotasTest, GivesTheFiguresOfHeaders) {
  set({.requests_per_second = 2, .prompt_tokens_per_second = 100, .burst_seconds = 5});
  const auto decision = ask(0, {.prompt_tokens = 200});
  EXPECT_DOUBLE_EQ(decision.requests.limit, 10);
  EXPECT_DOUBLE_EQ(decision.requests.remaining, 9);
  EXPECT_DOUBLE_EQ(decision.requests.reset_s, 0.5);
  EXPECT_DOUBLE_EQ(decision.prompt_tokens.limit, 500);
  EXPECT_DOUBLE_EQ(decision.prompt_tokens.remaining, 300);
  EXPECT_DOUBLE_EQ(decision.prompt_tokens.reset_s, 2);
  EXPECT_EQ(decision.generated_tokens.limit, 0) << "there is none";
}

TEST_F(QuotasTest, AShareScalesEverything) {
  set({.requests_per_second = 10, .burst_seconds = 2, .sequences = 10, .kv_bytes = 1000}, 0.25);
  EXPECT_DOUBLE_EQ(ask(0, {.kv_bytes = 100}).requests.limit, 5);
  const auto refused = ask(0, {.sequences = 3});
  EXPECT_EQ(refused.verdict, Verdict::sequences);
  EXPECT_EQ(refused.limit, 3) << "a quarter of 10, rounded up";
  EXPECT_EQ(verdict(0, {.kv_bytes = 151}), Verdict::kv_bytes);
  quotas_.release("t", 1, 100);
  EXPECT_EQ(verdict(0, {.sequences = 10, .kv_bytes = 1000}), Verdict::admitted)
      << "who holds nothing may start one request, else no share of a small limit is of use";
  EXPECT_EQ(verdict(0), Verdict::sequences);
}

TEST_F(QuotasTest, ARequestLargerThanTheSharesBucketWaitsForAFullOne) {
  set({.prompt_tokens_per_second = 100, .burst_seconds = 1}, 0.5);
  EXPECT_EQ(verdict(0, {.prompt_tokens = 80}), Verdict::admitted);
  const auto refused = ask(0, {.prompt_tokens = 80});
  EXPECT_EQ(refused.verdict, Verdict::prompt_rate);
  EXPECT_EQ(refused.retry_after.count(), 1600) << "30 of debt and 50 to be full, at 50 a second";
  EXPECT_EQ(verdict(1.599, {.prompt_tokens = 80}), Verdict::prompt_rate);
  EXPECT_EQ(verdict(1.6, {.prompt_tokens = 80}), Verdict::admitted);
}

TEST_F(QuotasTest, WithoutALeaseNothingStarts) {
  quotas_.set_tenant(tenant({.requests_per_second = 10, .burst_seconds = 1}), Time(0));
  EXPECT_EQ(verdict(0), Verdict::lease);
  quotas_.set_share("t", 0.5, Time(3), Time(0));
  EXPECT_EQ(verdict(2.9, {.sequences = 4}), Verdict::admitted);
  const auto refused = ask(3);
  EXPECT_EQ(refused.verdict, Verdict::lease);
  EXPECT_GT(refused.retry_after.count(), 0);
  quotas_.generated("t", 100, Time(3));
  quotas_.release("t", 4, 0);
  EXPECT_EQ(quotas_.sequences("t"), 0U) << "what runs goes on, and ends";
  quotas_.set_share("t", 0.5, Time(200), Time(100));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(verdict(100), Verdict::admitted);
  EXPECT_EQ(verdict(100), Verdict::requests_rate) << "nothing was saved up in between";
}

TEST_F(QuotasTest, NoWaitIsLongerThanTheLease) {
  quotas_.set_tenant(tenant({.requests_per_second = 1, .burst_seconds = 1}), Time(0));
  quotas_.set_share("t", 1e-5, Time(3), Time(0));
  EXPECT_EQ(verdict(0), Verdict::admitted);
  quotas_.release("t", 1, 0);
  EXPECT_EQ(ask(0).retry_after.count(), 3000) << "then it may have a share that is of use";
}

TEST_F(QuotasTest, AShareThatGrowsBringsNoTokens) {
  set({.requests_per_second = 10, .burst_seconds = 1}, 0.2);
  EXPECT_EQ(verdict(0), Verdict::admitted);
  EXPECT_EQ(verdict(0), Verdict::admitted);
  quotas_.set_share("t", 1, Quotas::no_expiry, Time(0));
  EXPECT_EQ(ask(0).retry_after.count(), 100);
  EXPECT_DOUBLE_EQ(ask(0.5).requests.remaining, 4);
  quotas_.set_share("t", 0.2, Quotas::no_expiry, Time(0.5));
  EXPECT_DOUBLE_EQ(ask(0.5).requests.remaining, 1) << "and one that shrinks takes them";
}

TEST_F(QuotasTest, AChangedRecordKeepsLevelsAndWhatIsHeld) {
  set({.requests_per_second = 10, .burst_seconds = 1, .sequences = 64});
  for (int i = 0; i < 8; ++i) EXPECT_EQ(verdict(0), Verdict::admitted);
  quotas_.set_tenant(tenant({.requests_per_second = 100, .burst_seconds = 1, .sequences = 9}),
                     Time(0.1));
  const auto decision = ask(0.1);
  EXPECT_DOUBLE_EQ(decision.requests.limit, 100);
  EXPECT_DOUBLE_EQ(decision.requests.remaining, 2) << "2 left, 1 came, 1 taken";
  EXPECT_EQ(verdict(0.1), Verdict::sequences);
  quotas_.set_tenant(tenant({.requests_per_second = 1, .burst_seconds = 1}), Time(10));
  EXPECT_DOUBLE_EQ(ask(10).requests.remaining, 0) << "cut down to the new bucket";
}

TEST_F(QuotasTest, ARemovedTenantIsForgottenWhenItsLastSequenceEnds) {
  set({.sequences = 2});
  EXPECT_EQ(verdict(0, {.sequences = 2}), Verdict::admitted);
  quotas_.remove_tenant("t");
  EXPECT_EQ(verdict(0), Verdict::unknown_tenant);
  EXPECT_EQ(quotas_.find("t"), nullptr);
  quotas_.set_tenant(tenant({.sequences = 2}), Time(1));
  EXPECT_EQ(verdict(1), Verdict::sequences) << "it came back, and so did what it holds";
  quotas_.remove_tenant("t");
  quotas_.release("t", 2, 0);
  quotas_.generated("t", 1, Time(2));
  set({.sequences = 2});
  EXPECT_EQ(verdict(2, {.sequences = 2}), Verdict::admitted);
}

TEST_F(QuotasTest, DemandIsTheMostAskedForOfAnyLimit) {
  set({.requests_per_second = 10, .prompt_tokens_per_second = 1000, .sequences = 100});
  EXPECT_EQ(quotas_.demand("t", Time(0)), 0);
  for (int i = 0; i < 600; ++i) {  // 5 a second with 150 tokens: half of one, 0.75 of the other
    ask(i * 0.2, {.prompt_tokens = 150});
    quotas_.release("t", 1, 0);
  }
  EXPECT_NEAR(quotas_.demand("t", Time(120)), 0.75, 0.05);
  EXPECT_LT(quotas_.demand("t", Time(140)), 0.02) << "it fades";
  for (int i = 0; i < 50; ++i) ask(140, {.prompt_tokens = 0});
  EXPECT_NEAR(quotas_.demand("t", Time(300)), 0.5, 1e-9) << "what is held stays wanted";
}

TEST_F(QuotasTest, WhatIsHeldIsInUseBeyondTheLease) {
  quotas_.set_tenant(tenant({.sequences = 10, .kv_bytes = 100}), Time(0));
  EXPECT_EQ(quotas_.in_use("t", Time(0)), 0);
  quotas_.set_share("t", 0.7, Time(3), Time(0));
  EXPECT_EQ(verdict(0, {.sequences = 5, .kv_bytes = 60}), Verdict::admitted);
  EXPECT_DOUBLE_EQ(quotas_.in_use("t", Time(1)), 0.7);
  EXPECT_DOUBLE_EQ(quotas_.in_use("t", Time(3)), 0.6);
}

TEST_F(QuotasTest, WhatIsRefusedIsDemandToo) {
  set({.requests_per_second = 1}, 0);
  EXPECT_EQ(verdict(0), Verdict::lease);
  EXPECT_NEAR(quotas_.demand("t", Time(0)), 0.2, 1e-9);
}

// Against the plainest model there is: over any time, no more than the bucket and the rate, and
// who comes back after retry_after is let in.
TEST(Quotas, RandomTracesAgainstAReference) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto uniform = [&](int below) { return static_cast<int>(random() % below); };
    const Quota quota{.requests_per_second = 1.0 + uniform(20),
                      .prompt_tokens_per_second = 50.0 + uniform(1000),
                      .generated_tokens_per_second = 10.0 + uniform(300),
                      .burst_seconds = 1.0 + uniform(5),
                      .sequences = 1U + static_cast<unsigned>(uniform(50))};
    Quotas quotas;
    quotas.set_tenant(tenant(quota), Time(0));
    quotas.set_share("t", 1, Quotas::no_expiry, Time(0));
    struct Level {
      double rate, full, level;
      void refill(double elapsed) { level = std::min(full, level + rate * elapsed); }
    };
    const auto level = [&](double rate) {
      const double full = std::max(1.0, rate * quota.burst_seconds);
      return Level{rate, full, full};
    };
    Level requests = level(quota.requests_per_second),
          prompt = level(quota.prompt_tokens_per_second),
          generated = level(quota.generated_tokens_per_second);
    std::uint32_t held = 0;
    double now = 0;
    for (int i = 0; i < 2000; ++i) {
      const double elapsed = uniform(5) == 0 ? uniform(3000) / 1000.0 : uniform(100) / 1000.0;
      now += elapsed;
      for (Level* each : {&requests, &prompt, &generated}) each->refill(elapsed);
      Ask ask{.sequences = 1U + static_cast<unsigned>(uniform(3)),
              .prompt_tokens = static_cast<unsigned>(uniform(400))};
      const bool fits = held + ask.sequences <= quota.sequences ||
                        (held == 0 && ask.sequences <= quota.sequences);
      const double need = ask.prompt_tokens;
      const bool near = std::abs(requests.level - 1) < 1e-5 ||
                        std::abs(prompt.level - need) < 1e-5 ||
                        std::abs(generated.level - 1) < 1e-5;
      const bool expected = fits && requests.level >= 1 && prompt.level >= need &&
                            need <= prompt.full && generated.level >= 1;
      const auto decision = quotas.admit("t", ask, Time(now));
      const bool admitted = decision.verdict == Verdict::admitted;
      if (!near) {
        ASSERT_EQ(admitted, expected) << "seed " << seed << " step " << i;
      }
      if (admitted) {
        requests.level -= 1;
        prompt.level -= need;
        held += ask.sequences;
      } else if (fits && decision.retry_after.count() > 0) {
        // A copy of the world goes on to the promised moment, and to just before it.
        const double wait = static_cast<double>(decision.retry_after.count()) / 1000;
        Quotas early = quotas, later = quotas;
        EXPECT_EQ(later.admit("t", ask, Time(now + wait)).verdict, Verdict::admitted);
        if (!near) {
          EXPECT_NE(early.admit("t", ask, Time(now + wait - 0.00101)).verdict, Verdict::admitted);
        }
      }
      ASSERT_NEAR(decision.requests.remaining, std::max(0.0, requests.level), 1e-5);
      ASSERT_NEAR(decision.prompt_tokens.remaining, std::max(0.0, prompt.level), 1e-4);
      if (held > 0 && uniform(2) == 0) {
        const auto tokens = static_cast<std::uint32_t>(uniform(60));
        quotas.generated("t", tokens, Time(now));
        generated.level -= tokens;
        quotas.release("t", 1, 0);
        --held;
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll::cluster
