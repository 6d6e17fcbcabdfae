#include "engine/batching/prompt_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace plimsoll {
namespace {

using testing::ElementsAre;

class PromptLookupTest : public testing::Test {
 protected:
  std::vector<TokenId> draft(std::uint32_t count) {
    const auto draft = lookup_.draft(tokens_, count);
    return {draft.begin(), draft.end()};
  }
  bool look_up(std::vector<TokenId> tokens) {
    tokens_ = std::move(tokens);
    lookup_.look_up(tokens_);
    return lookup_.found();
  }
  void come(TokenId token) {
    tokens_.push_back(token);
    lookup_.see(tokens_);
  }

  PromptLookup lookup_;
  std::vector<TokenId> tokens_;
};

TEST_F(PromptLookupTest, FindsNothingWhereNothingRepeats) {
  EXPECT_FALSE(look_up({}));
  EXPECT_FALSE(look_up({1}));
  EXPECT_FALSE(look_up({1, 1}));
  EXPECT_FALSE(look_up({1, 2, 3, 4, 5}));
  EXPECT_FALSE(look_up({1, 2, 3, 9, 3})) << "one token is no repetition";
}

TEST_F(PromptLookupTest, GoesOnAsTheTextDidBefore) {
  ASSERT_TRUE(look_up({5, 1, 2, 3, 4, 9, 1, 2}));
  EXPECT_EQ(draft(4), (std::vector<TokenId>{2, 3, 4, 9, 1}));
}

TEST_F(PromptLookupTest, TheLongestCountsAndOfSeveralTheLatest) {
  ASSERT_TRUE(look_up({7, 1, 2, 30, 8, 1, 2, 31, 9, 1, 2, 32, 8, 1, 2}));
  EXPECT_THAT(draft(1), ElementsAre(2, 31));
  lookup_ = {};
  ASSERT_TRUE(look_up({1, 2, 30, 1, 2, 31, 5, 1, 2}));
  EXPECT_THAT(draft(1), ElementsAre(2, 31));
}

TEST_F(PromptLookupTest, ATextInCirclesGoesOnInCircles) {
  ASSERT_TRUE(look_up({4, 1, 2, 3, 1, 2, 3}));
  EXPECT_THAT(draft(7), ElementsAre(3, 1, 2, 3, 1, 2, 3, 1));
  lookup_ = {};
  ASSERT_TRUE(look_up({6, 6, 6}));
  EXPECT_THAT(draft(3), ElementsAre(6, 6, 6, 6));
}

TEST_F(PromptLookupTest, LearnsByWatching) {
  ASSERT_TRUE(look_up({1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2}));
  const double of_two = lookup_.chance();
  for (TokenId token = 3; token <= 9; ++token) {
    come(token);
    ASSERT_TRUE(lookup_.found());
    EXPECT_GT(lookup_.chance(), of_two);
  }
  come(40);
  EXPECT_FALSE(lookup_.found());
  EXPECT_EQ(lookup_.chance(), 0);
  come(1);
  come(2);
  ASSERT_TRUE(look_up(tokens_));
  const double once_right = lookup_.chance();
  EXPECT_GT(once_right, of_two);
  come(50);
  come(1);
  come(2);
  ASSERT_TRUE(look_up(tokens_));
  EXPECT_LT(lookup_.chance(), once_right);
}

TEST_F(PromptLookupTest, WhatIsNeverRightIsHardlyTried) {
  tokens_ = {1, 2};
  for (TokenId token = 100; token < 140; ++token) {
    come(token);
    come(1);
    come(2);
    look_up(tokens_);
    ASSERT_TRUE(lookup_.found());
  }
  EXPECT_LT(lookup_.chance(), 0.001);
}

TEST_F(PromptLookupTest, LooksBackSoFarAndNoFurther) {
  std::vector<TokenId> tokens = {1, 2, 3};
  for (TokenId i = 0; tokens.size() < PromptLookup::window_tokens - 2; ++i)
    tokens.push_back(10 + i);
  tokens.insert(tokens.end(), {1, 2});
  EXPECT_TRUE(look_up(tokens));
  lookup_ = {};
  tokens.insert(tokens.end() - 2, 5);
  EXPECT_FALSE(look_up(tokens));
}

// By the definition.
TEST_F(PromptLookupTest, AgreesWithASearchOfEverything) {
  std::mt19937 random(1);
  std::uint32_t found = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto kinds = 2 + static_cast<TokenId>(random() % 30);
    std::vector<TokenId> tokens(random() % 400);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random()) % kinds;
    const std::size_t size = tokens.size();
    std::size_t best = 1, next = 0, places = 0;
    for (std::size_t end = size; end-- > 2 && places < PromptLookup::most_places;) {
      std::size_t length = 0;  // of what ends before `end` and is the end of the text
      while (length < 16 && length < end && tokens[end - 1 - length] == tokens[size - 1 - length]) {
        ++length;
      }
      places += length >= 2;
      if (length > best) {
        best = length;
        next = end;
      }
      if (length == 16) break;
    }
    lookup_ = {};
    ASSERT_EQ(look_up(tokens), next > 0);
    if (next == 0) continue;
    ++found;
    ASSERT_EQ(draft(1)[1], tokens[next]) << "round " << round;
  }
  EXPECT_GT(found, 500U);
}

}  // namespace
}  // namespace plimsoll
