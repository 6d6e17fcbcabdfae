// Drafts change nothing but how many tokens a step gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/loop/engine_harness.h"

namespace plimsoll::testing {
namespace {

constexpr std::uint32_t vocab = 50;

EngineConfig small() {
  EngineConfig config;
  config.limits = {.tokens = 64, .sequences = 8, .logit_rows = 16, .context_tokens = 512};
  config.chunk_tokens = 32;
  // Reading the weights takes as long as 10 tokens: a draft is tried if one of eight would be
  // right.
  config.step_cost = StepCost{.base = 0.01, .per_token = 0.001};
  return config;
}

FakeModelOptions repeating(std::uint32_t percent = 85) {
  FakeModelOptions options;
  options.habit = {.period = 23, .percent = percent};
  return options;
}

std::vector<TokenId> alone(const SequenceRequest& request, FakeHabit habit) {
  return FakeModel::generate(request.prompt, request.sampling, request.max_new_tokens, vocab,
                             request.stop_tokens, habit);
}

TEST(Speculation, GivesTheSameTextInFewerSteps) {
  const auto options = repeating();
  EngineHarness harness(small(), 64, options);
  const auto before = harness.engine().stats();
  const auto request = make_request(1, make_prompt(40, 1), 300);
  ASSERT_TRUE(harness.engine().submit(request));
  EXPECT_EQ(harness.outcome(1).tokens, alone(request, options.habit));
  EXPECT_EQ(harness.outcome(1).usage.generated_tokens, 300U);
  const auto after = harness.engine().stats();
  EXPECT_EQ(after.generated_tokens_total - before.generated_tokens_total, 300U);
  const auto accepted = after.accepted_draft_tokens_total - before.accepted_draft_tokens_total;
  EXPECT_GT(accepted, 100U);
  EXPECT_GT(after.drafted_tokens_total, after.accepted_draft_tokens_total);
  // Two chunks of prefill, the second of which samples; each other step gives a token, and as many
  // as were right of its draft.
  EXPECT_EQ(after.steps_total - before.steps_total, 2 + 299 - accepted);
}

TEST(Speculation, IsLeftWhereItIsOff) {
  auto config = small();
  config.speculation = false;
  const auto options = repeating();
  EngineHarness harness(config, 64, options);
  const auto request = make_request(1, make_prompt(40, 1), 200);
  ASSERT_TRUE(harness.engine().submit(request));
  EXPECT_EQ(harness.outcome(1).tokens, alone(request, options.habit));
  EXPECT_EQ(harness.engine().stats().drafted_tokens_total, 0U);
  EXPECT_EQ(harness.engine().stats().steps_total, 2U + 199U);
}

TEST(Speculation, IsNotTriedWhereTextsDoNotRepeat) {
  EngineHarness harness(small(), 64, repeating(0));
  for (std::uint64_t id = 1; id <= 4; ++id) {
    // What was asked repeats itself; the answer does not.
    auto prompt = make_prompt(20, id);
    const auto again = prompt;
    prompt.insert(prompt.end(), again.begin(), again.end());
    ASSERT_TRUE(harness.engine().submit(make_request(id, prompt, 400)));
    harness.outcome(id);
  }
  EXPECT_LT(harness.engine().stats().drafted_tokens_total, 1600U / 50);
}

TEST(Speculation, CountsPenaltiesAndTellsLogprobsAsWithout) {
  auto request = make_request(1, make_prompt(40, 1), 200);
  request.sampling.temperature = 0.7F;
  request.sampling.top_p = 0.9F;
  request.sampling.frequency_penalty = 0.4F;
  request.sampling.presence_penalty = 0.3F;
  request.sampling.logit_bias = {{7, 3.0F}};
  request.sampling.top_logprobs = 4;
  request.prompt_logprobs = true;
  std::vector<Outcome> outcomes;
  for (const bool speculation : {false, true}) {
    auto config = small();
    config.speculation = speculation;
    EngineHarness harness(config, 64, repeating());
    ASSERT_TRUE(harness.engine().submit(request));
    outcomes.push_back(harness.outcome(1));
    if (speculation) {
      EXPECT_GT(harness.engine().stats().accepted_draft_tokens_total, 20U);
    }
  }
  const auto same = [](const std::vector<SampledToken>& a, const std::vector<SampledToken>& b) {
    return std::ranges::equal(a, b, [](const SampledToken& x, const SampledToken& y) {
      return x.id == y.id && x.logprob == y.logprob &&
             std::ranges::equal(x.top, y.top, [](const TokenLogprob& s, const TokenLogprob& t) {
               return s.id == t.id && s.logprob == t.logprob;
             });
    });
  };
  EXPECT_EQ(outcomes[0].sampled.size(), 200U);
  EXPECT_TRUE(same(outcomes[0].sampled, outcomes[1].sampled));
  EXPECT_EQ(outcomes[1].prompt.size(), 40U);
  EXPECT_TRUE(same(outcomes[0].prompt, outcomes[1].prompt));
}

TEST(Speculation, EndsWhereTheTextWouldHaveEnded) {
  const auto options = repeating();
  EngineHarness harness(small(), 64, options);
  // After any number of tokens: some of these ends lie inside of a draft.
  for (std::uint32_t count = 100; count < 140; ++count) {
    const auto request = make_request(count, make_prompt(40, 1), count);
    ASSERT_TRUE(harness.engine().submit(request));
    const auto outcome = harness.outcome(count);
    EXPECT_EQ(outcome.tokens, alone(request, options.habit));
    EXPECT_EQ(outcome.finish, FinishReason::length);
  }
  const auto request = make_request(1, make_prompt(40, 1), 400);
  const auto text = alone(request, options.habit);
  for (std::uint32_t at = 60; at < 300; at += 7) {
    auto stops = request;
    stops.id = RequestId{2000 + at};
    stops.stop_tokens = {text[at]};
    ASSERT_TRUE(harness.engine().submit(stops));
    const auto outcome = harness.outcome(2000 + at);
    EXPECT_EQ(outcome.tokens, alone(stops, options.habit));
    EXPECT_EQ(outcome.finish, FinishReason::stop);
  }
  // The last token that the context holds.
  const auto full = make_request(5000, make_prompt(112, 5), 400);
  ASSERT_TRUE(harness.engine().submit(full));
  EXPECT_EQ(harness.outcome(5000).tokens, alone(full, options.habit));
  EXPECT_GT(harness.engine().stats().accepted_draft_tokens_total, 1000U);
}

TEST(Speculation, KeepsToACreditOfAnySize) {
  const auto options = repeating();
  EngineHarness harness(small(), 64, options);
  auto request = make_request(1, make_prompt(40, 1), 250);
  request.credit = 100;
  ASSERT_TRUE(harness.engine().submit(request));
  std::size_t granted = 100;
  for (std::uint32_t more = 1; granted < 250; more = more % 9 + 1) {
    ASSERT_TRUE(harness.wait_tokens(1, granted));
    ASSERT_TRUE(harness.wait_stats([](const EngineStats& s) { return s.paused == 1; }));
    ASSERT_EQ(harness.token_count(1), granted);
    harness.engine().add_credit(RequestId{1}, more);
    granted += more;
  }
  EXPECT_EQ(harness.outcome(1).tokens, alone(request, options.habit));
}

TEST(Speculation, WhatWasNotAcceptedIsSharedWithNobody) {
  const auto options = repeating(70);  // many drafts are wrong
  EngineHarness harness(small(), 128, options);
  auto request = make_request(1, make_prompt(40, 1), 200);
  ASSERT_TRUE(harness.engine().submit(request));
  auto text = request.prompt;
  const auto answer = harness.outcome(1).tokens;
  text.insert(text.end(), answer.begin(), answer.end());
  // Whoever goes on behind any part of it takes its blocks.
  for (std::uint32_t length = 50; length < 240; length += 10) {
    auto follow_up = make_request(length, {text.begin(), text.begin() + length}, 40);
    ASSERT_TRUE(harness.engine().submit(follow_up));
    EXPECT_EQ(harness.outcome(length).tokens, alone(follow_up, options.habit));
    EXPECT_GE(harness.outcome(length).usage.cached_tokens, length - 17);
  }
  const auto stats = harness.engine().stats();
  EXPECT_GT(stats.drafted_tokens_total, stats.accepted_draft_tokens_total + 20);
}

TEST(Speculation, AModelThatFailsInsideOfADraftFailsAtTheSameToken) {
  auto options = repeating();
  const auto request = make_request(1, make_prompt(40, 1), 300);
  const auto text = alone(request, options.habit);
  // A token that comes late for the first time.
  std::size_t at = 0;
  for (std::size_t i = 100; i < text.size() && at == 0; ++i) {
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(i);
    const bool new_here = std::find(text.begin(), end, text[i]) == end &&
                          std::ranges::find(request.prompt, text[i]) == request.prompt.end();
    if (new_here) at = i;
  }
  if (at == 0) GTEST_SKIP() << "every token came early";
  options.nan_after = text[at];
  EngineHarness harness(small(), 64, options);
  ASSERT_TRUE(harness.engine().submit(request));
  const auto outcome = harness.outcome(1);
  EXPECT_EQ(outcome.finish, FinishReason::error);
  EXPECT_EQ(outcome.tokens,
            std::vector<TokenId>(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at) + 1));
}

}  // namespace
}  // namespace plimsoll::testing
