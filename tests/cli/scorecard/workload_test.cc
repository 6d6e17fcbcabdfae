#include "cli/scorecard/workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace plimsoll::cli::scorecard {
namespace {

std::vector<Request> requests(const Mix& mix, std::uint64_t seed, int n, double scale = 1) {
  MixSource source(mix, seed, scale);
  std::vector<Request> out;
  for (int i = 0; i < n; ++i) out.push_back(**source.next());
  return out;
}

std::uint64_t hash_of(const std::vector<Request>& requests) {
  std::uint64_t hash = 0;
  for (const auto& r : requests) {
    hash = mix_bits(hash, static_cast<std::uint64_t>(r.at_s * 1e6));
    for (const std::uint64_t x : {r.traffic, r.tenant, r.prompt_tokens, r.output_tokens,
                                  static_cast<std::uint32_t>(r.blocks.size())}) {
      hash = mix_bits(hash, x);
    }
    for (const auto token : prompt_of(r, 1, 49'152)) {
      hash = mix_bits(hash, static_cast<std::uint64_t>(token));
    }
  }
  return hash;
}

// If these change, older scorecards cannot be repeated.
TEST(Workload, TheSameSeedGivesTheSameTrafficOnEveryMachine) {
  const std::map<std::string, std::uint64_t> golden = {
      {"chat", 5623338168148609480U},        {"rag", 1153733684617528104U},
      {"agents", 1782267776255631250U},      {"batch", 8874922708321590916U},
      {"embeddings", 16600364408118443695U}, {"mixed", 14096669929369203462U},
      {"flood", 3240337570795015436U},
  };
  for (const auto& mix : named_mixes()) {
    EXPECT_EQ(hash_of(requests(mix, 1, 200)), golden.at(mix.name)) << mix.name;
    EXPECT_EQ(requests(mix, 1, 50), requests(mix, 1, 50));
    EXPECT_NE(requests(mix, 1, 50), requests(mix, 2, 50));
  }
}

TEST(Workload, TrafficAndTenantsHaveTheirWeights) {
  const auto mix = *named_mix("flood");
  std::map<std::uint32_t, int> of_tenant;
  for (const auto& r : requests(mix, 3, 5000)) {
    ++of_tenant[r.tenant];
    EXPECT_EQ(r.traffic == 1, r.tenant == 4);
  }
  EXPECT_NEAR(of_tenant[4], 4000, 120);
  EXPECT_EQ(of_tenant.size(), 5U);
}

TEST(Workload, AChangeOfOneDistributionLeavesTheOthersDraws) {
  auto mix = *named_mix("chat");
  const auto before = requests(mix, 3, 100);
  mix.traffic[0].output.median *= 2;
  mix.arrivals.kind = Arrivals::Kind::uniform;
  const auto after = requests(mix, 3, 100);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(before[i].prompt_tokens, after[i].prompt_tokens);
    EXPECT_EQ(before[i].tenant, after[i].tenant);
  }
}

TEST(Workload, PromptsShareTheirPrefixAndNothingElse) {
  Mix mix = *named_mix("agents");
  mix.traffic[0].prefix.tokens = 32;
  std::map<std::uint64_t, std::vector<std::int32_t>> beginnings;
  std::set<std::vector<std::int32_t>> rests;
  int count = 0;
  for (const auto& r : requests(mix, 3, 200)) {
    ASSERT_EQ(r.blocks.size(), 1U);
    ++count;
    const auto prompt = prompt_of(r, 3, 1000);
    ASSERT_EQ(prompt.size(), r.prompt_tokens);
    ASSERT_GT(prompt.size(), 32U);
    const std::vector<std::int32_t> beginning(prompt.begin(), prompt.begin() + 32);
    const auto [found, is_new] = beginnings.emplace(r.blocks[0], beginning);
    EXPECT_EQ(found->second, beginning);
    rests.emplace(prompt.begin() + 32, prompt.end());
  }
  EXPECT_EQ(beginnings.size(), 6U);
  EXPECT_EQ(rests.size(), static_cast<std::size_t>(count));
}

TEST(Workload, TokensAreInTheVocabulary) {
  Request r;
  r.prompt_tokens = 500;
  for (const std::uint32_t vocabulary : {1U, 2U, 7U, 256U, 49'152U}) {
    const auto prompt = prompt_of(r, 1, vocabulary);
    EXPECT_EQ(prompt.size(), 500U);
    for (const auto token : prompt) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, static_cast<std::int32_t>(vocabulary));
    }
  }
}

TEST(Workload, WhatIsTooLongIsCutToTheContext) {
  Request r;
  r.prompt_tokens = 60;
  r.output_tokens = 40;
  EXPECT_FALSE(fit(r, 100));
  r.prompt_tokens = 300;
  EXPECT_TRUE(fit(r, 100));
  EXPECT_EQ(r.prompt_tokens, 60U) << "the prompt gives way";
  EXPECT_EQ(r.output_tokens, 40U);
  r.output_tokens = 500;
  EXPECT_TRUE(fit(r, 100));
  EXPECT_EQ(r.prompt_tokens, 50U);
  EXPECT_EQ(r.output_tokens, 50U);
  r.embed = true;
  r.output_tokens = 500;
  EXPECT_FALSE(fit(r, 50));
}

TEST(Workload, LengthsAreScaledWithTheirPrefix) {
  const auto mix = *named_mix("agents");
  const auto whole = requests(mix, 3, 100);
  const auto tenth = requests(mix, 3, 100, 0.1);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(tenth[i].block_tokens, 51U);
    EXPECT_NEAR(tenth[i].prompt_tokens, whole[i].prompt_tokens * 0.1, 1.5);
    EXPECT_GE(tenth[i].output_tokens, 1U);
  }
}

TEST(Workload, TextHasAWordForEachToken) {
  Request r;
  r.prompt_tokens = 12;
  const auto text = text_of(r, 1);
  EXPECT_EQ(std::ranges::count(text, ' '), 9) << "ten words: the model adds two tokens";
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
