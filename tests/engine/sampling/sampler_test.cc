#include "engine/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "engine/sampling/philox.h"

namespace plimsoll {
namespace {

using testing::ElementsAre;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

SampledToken sample(std::vector<float> logits, const SamplingParams& params,
                    std::uint64_t position = 0, std::vector<TokenId> generated = {}) {
  Sampler sampler(static_cast<std::uint32_t>(logits.size()));
  return sampler.sample(logits, params, position, generated);
}

std::vector<float> random_logits(std::size_t count, std::uint32_t seed, float spread = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature = 1) {
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp((logit - max) / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

// How often each token came in `draws` positions.
std::vector<double> frequencies(const std::vector<float>& logits, const SamplingParams& params,
                                int draws) {
  Sampler sampler(static_cast<std::uint32_t>(logits.size()));
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    auto copy = logits;
    counts[sampler.sample(copy, params, i, {}).id] += 1;
  }
  return counts;
}

// Pearson's statistic over the cells with an expectation of 5 or more, and its 99.99 % quantile
// (Wilson and Hilferty's approximation).
void expect_distribution(const std::vector<double>& counts, const std::vector<double>& p) {
  const double draws = std::accumulate(counts.begin(), counts.end(), 0.0);
  double statistic = 0;
  int cells = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " must never come";
    }
    const double expected = p[i] * draws;
    if (expected < 5) continue;
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  ASSERT_GT(cells, 1);
  const double k = cells - 1;
  const double quantile = k * std::pow(1 - 2 / (9 * k) + 3.719 * std::sqrt(2 / (9 * k)), 3);
  EXPECT_LT(statistic, quantile) << "over " << cells << " cells";
}

// The known answers that the Random123 distribution ships for philox4x32, 10 rounds.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_THAT(philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U));
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_THAT(philox4x32({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU));
  EXPECT_THAT(
      philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U));
}

TEST(CounterRandom, IsUniformOverPositionsSeedsAndStreams) {
  std::vector<double> by_position(20), by_seed(20), by_stream(20);
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    by_position[static_cast<int>(counter_random(7, i) * 20)] += 1;
    by_seed[static_cast<int>(counter_random(i, 7) * 20)] += 1;
    by_stream[static_cast<int>(counter_random(7, 7, i) * 20)] += 1;
  }
  const std::vector<double> uniform(20, 0.05);
  expect_distribution(by_position, uniform);
  expect_distribution(by_seed, uniform);
  expect_distribution(by_stream, uniform);
}

TEST(CounterRandom, UsesAllBitsOfItsArguments) {
  EXPECT_NE(counter_random(1, 0), counter_random(1ULL << 32, 0));
  EXPECT_NE(counter_random(0, 1), counter_random(0, 1ULL << 32));
  EXPECT_NE(counter_random(0, 0, 1), counter_random(0, 1, 0));
}

TEST(Sampler, GreedyTakesTheLikeliestAndTheLowerIdOfEquals) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(sample({1, 3, 2}, params).id, 1);
  EXPECT_EQ(sample({1, 3, 3, 2}, params).id, 1);
}

TEST(Sampler, GreedyFindsTheSameTokenWhereverItIs) {
  SamplingParams greedy;
  greedy.temperature = 0;
  // Of lengths around a run, and around a lane more or less than that.
  for (const std::size_t vocab : {1, 15, 16, 17, 1023, 1024, 1025, 1040, 2049, 5000}) {
    Sampler sampler(static_cast<std::uint32_t>(vocab));
    const auto logits = random_logits(vocab, static_cast<std::uint32_t>(vocab));
    for (std::size_t at = 0; at < vocab; at += std::max<std::size_t>(1, vocab / 37)) {
      auto copy = logits;
      copy[at] = copy[vocab - 1] = 100;  // equals: the first
      copy[vocab / 2] = at == vocab / 2 ? 100 : nan;
      EXPECT_EQ(sampler.sample(copy, greedy, 0, {}).id, static_cast<TokenId>(at)) << vocab;
    }
    std::vector<float> low(vocab, -infinity);
    EXPECT_EQ(sampler.sample(low, greedy, 0, {}).id, no_token);
    low.back() = -3;
    EXPECT_EQ(sampler.sample(low, greedy, 0, {}).id, static_cast<TokenId>(vocab - 1));
  }
  // What is infinite counts as the largest number there is, so a large number before it comes
  // first.
  std::vector<float> logits(3000, 0.0F);
  logits[10] = std::numeric_limits<float>::max();
  logits[2000] = infinity;
  EXPECT_EQ(sample(logits, greedy).id, 10);
}

TEST(Sampler, FollowsTheSoftmaxOfItsTemperature) {
  const auto logits = random_logits(50, 1);
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    params.seed = 11;
    expect_distribution(frequencies(logits, params, 20'000), softmax(logits, temperature));
  }
}

// Truncation computed the slow way: sort everything, cut, renormalize.
std::vector<double> truncated(const std::vector<float>& logits, const SamplingParams& params) {
  auto p = softmax(logits, params.temperature);
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
  std::size_t kept = order.size();
  if (params.top_k > 0) kept = std::min<std::size_t>(kept, params.top_k);
  double all = 0;
  for (std::size_t i = 0; i < kept; ++i) all += p[order[i]];
  double mass = 0;
  std::size_t nucleus = 0;
  while (nucleus < kept && mass < params.top_p * all) mass += p[order[nucleus++]];
  while (nucleus > 1 && p[order[nucleus - 1]] < params.min_p * p[order[0]]) --nucleus;
  std::vector<double> result(p.size());
  double sum = 0;
  for (std::size_t i = 0; i < nucleus; ++i) sum += p[order[i]];
  for (std::size_t i = 0; i < nucleus; ++i) result[order[i]] = p[order[i]] / sum;
  return result;
}

TEST(Sampler, TruncatesLikeTheSlowWay) {
  // A flat distribution, so that the nucleus needs several batches of the partial sort.
  const auto logits = random_logits(600, 2, 0.7F);
  struct Case {
    std::int32_t top_k;
    float top_p, min_p;
  };
  for (const auto& [top_k, top_p, min_p] :
       {Case{5, 1, 0}, Case{0, 0.8F, 0}, Case{0, 0.2F, 0}, Case{0, 1, 0.2F}, Case{100, 0.6F, 0},
        Case{100, 0.9F, 0.3F}, Case{0, 0.9F, 0.3F}}) {
    SCOPED_TRACE(testing::Message() << top_k << " " << top_p << " " << min_p);
    SamplingParams params;
    params.top_k = top_k;
    params.top_p = top_p;
    params.min_p = min_p;
    params.seed = 5;
    expect_distribution(frequencies(logits, params, 5'000), truncated(logits, params));
  }
}

TEST(Sampler, TruncationToOneTokenIsGreedy) {
  SamplingParams greedy;
  greedy.temperature = 0;
  for (std::uint32_t seed = 0; seed < 100; ++seed) {
    auto logits = random_logits(200, seed);
    logits[seed] = logits[199 - seed] = 20;  // a tie
    const TokenId expected = sample(logits, greedy).id;
    SamplingParams params;
    params.seed = seed;
    params.top_k = 1;
    EXPECT_EQ(sample(logits, params).id, expected);
    params.top_k = 0;
    params.top_p = 1e-6F;
    EXPECT_EQ(sample(logits, params).id, expected);
    params.top_p = 1;
    params.temperature = 1e-30F;
    EXPECT_EQ(sample(logits, params).id, expected);
    logits[expected] += 1;
    params.temperature = 1;
    params.min_p = 1;
    EXPECT_EQ(sample(logits, params).id, expected);
  }
}

TEST(Sampler, IsAFunctionOfSeedAndPositionAlone) {
  const auto logits = random_logits(1000, 3);
  SamplingParams params;
  params.seed = 42;
  params.top_p = 0.95F;
  Sampler used(1000);
  for (int position = 0; position < 50; ++position) {
    auto copy = logits;
    EXPECT_EQ(used.sample(copy, params, position, {}).id, sample(logits, params, position).id);
  }
  SamplingParams other = params;
  other.seed = 43;
  int same = 0;
  for (int position = 0; position < 50; ++position) {
    same += sample(logits, params, position).id == sample(logits, other, position).id;
  }
  EXPECT_LT(same, 25);
}

TEST(Sampler, PenaltiesAndBiasFollowTheirDefinitions) {
  SamplingParams params;
  params.temperature = 0;
  params.presence_penalty = 0.6F;
  EXPECT_EQ(sample({1.0F, 0.5F}, params, 0, {0}).id, 1);        // 0.4 < 0.5
  EXPECT_EQ(sample({1.0F, 0.3F}, params, 0, {0, 0, 0}).id, 0);  // once, however often it came
  params.presence_penalty = 0;
  params.frequency_penalty = 0.2F;
  EXPECT_EQ(sample({1.0F, 0.5F}, params, 0, {0, 0}).id, 0);     // 0.6
  EXPECT_EQ(sample({1.0F, 0.5F}, params, 0, {0, 0, 0}).id, 1);  // 0.4
  params.frequency_penalty = 0;
  params.logit_bias = {{1, 3.0F}, {0, -100.0F}};
  EXPECT_EQ(sample({1.0F, 0.5F}, params).id, 1);
  // Tokens outside the vocabulary change nothing.
  params.presence_penalty = 1;
  params.logit_bias = {{77, 3.0F}};
  EXPECT_EQ(sample({1.0F, 0.5F}, params, 0, {-1, 99}).id, 0);
}

TEST(Sampler, PenaltyCountsDoNotOutliveTheCall) {
  Sampler sampler(2);
  SamplingParams params;
  params.temperature = 0;
  params.frequency_penalty = 2;
  std::vector<float> logits = {1, 0};
  EXPECT_EQ(sampler.sample(logits, params, 0, std::vector<TokenId>{0}).id, 1);
  logits = {1, 0};
  EXPECT_EQ(sampler.sample(logits, params, 0, {}).id, 0);
}

TEST(Sampler, LogprobsAreOfTheUnmodifiedDistribution) {
  const std::vector<float> logits = {0.5F, 2.0F, 1.0F, -1.0F};
  const auto p = softmax(logits);
  SamplingParams params;
  params.temperature = 0;
  params.top_logprobs = 2;
  params.logit_bias = {{3, 50.0F}, {3, 50.0F}};
  params.frequency_penalty = 0.5F;
  const auto token = sample(logits, params, 0, {3, 3});
  EXPECT_EQ(token.id, 3);
  EXPECT_NEAR(token.logprob, std::log(p[3]), 1e-5);
  ASSERT_EQ(token.top.size(), 2U);
  EXPECT_EQ(token.top[0].id, 1);
  EXPECT_NEAR(token.top[0].logprob, std::log(p[1]), 1e-5);
  EXPECT_EQ(token.top[1].id, 2);
  EXPECT_NEAR(token.top[1].logprob, std::log(p[2]), 1e-5);

  params.top_logprobs = -1;
  EXPECT_TRUE(sample(logits, params).top.empty());

  Sampler sampler(4);
  const auto scored = sampler.score(logits, 2, 9);
  EXPECT_NEAR(scored.logprob, std::log(p[2]), 1e-5);
  ASSERT_EQ(scored.top.size(), 4U);
  EXPECT_EQ(scored.top[3].id, 3);
}

TEST(Sampler, NanIsImpossibleAndAllNanIsNoToken) {
  SamplingParams params;
  params.top_logprobs = 3;
  for (int position = 0; position < 20; ++position) {
    const auto token = sample({nan, 1, nan}, params, position);
    EXPECT_EQ(token.id, 1);
    EXPECT_NEAR(token.logprob, 0, 1e-6);
    EXPECT_EQ(token.top.size(), 1U);
  }
  EXPECT_EQ(sample({nan, nan}, params).id, no_token);
  EXPECT_EQ(sample({-infinity, -infinity}, params).id, no_token);
  EXPECT_EQ(sample({1, infinity, 2}, params).id, 1);
  params.temperature = 0;
  EXPECT_EQ(sample({nan, -5}, params).id, 1);
}

TEST(SamplingParams, RefusesWhatIsOutOfRangeAndNamesIt) {
  EXPECT_TRUE(validate(SamplingParams{}));
  const auto refused = [](auto change) {
    SamplingParams params;
    change(params);
    const auto result = validate(params);
    return result ? std::string("accepted") : result.error().param;
  };
  EXPECT_EQ(refused([](auto& p) { p.temperature = nan; }), "temperature");
  EXPECT_EQ(refused([](auto& p) { p.temperature = -1; }), "temperature");
  EXPECT_EQ(refused([](auto& p) { p.temperature = infinity; }), "temperature");
  EXPECT_EQ(refused([](auto& p) { p.top_p = 0; }), "top_p");
  EXPECT_EQ(refused([](auto& p) { p.top_p = nan; }), "top_p");
  EXPECT_EQ(refused([](auto& p) { p.top_k = -1; }), "top_k");
  EXPECT_EQ(refused([](auto& p) { p.min_p = 1.1F; }), "min_p");
  EXPECT_EQ(refused([](auto& p) { p.presence_penalty = 2.1F; }), "presence_penalty");
  EXPECT_EQ(refused([](auto& p) { p.frequency_penalty = nan; }), "frequency_penalty");
  EXPECT_EQ(refused([](auto& p) { p.top_logprobs = 21; }), "top_logprobs");
  EXPECT_EQ(refused([](auto& p) { p.logit_bias = {{1, nan}}; }), "logit_bias");
  EXPECT_EQ(refused([](auto& p) { p.logit_bias = {{-1, 1.0F}}; }), "logit_bias");
  EXPECT_EQ(refused([](auto& p) { p.logit_bias.resize(1025, {1, 1.0F}); }), "logit_bias");
}

}  // namespace
}  // namespace plimsoll
