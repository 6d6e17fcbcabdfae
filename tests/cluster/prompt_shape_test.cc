#include "cluster/prompt_shape.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace plimsoll::cluster {
namespace {

std::vector<std::int32_t> repeated(std::size_t tokens, std::int32_t period) {
  std::vector<std::int32_t> out(tokens);
  for (std::size_t i = 0; i < tokens; ++i) out[i] = static_cast<std::int32_t>(i) % period;
  return out;
}

TEST(PromptShape, LongRunsOfAFewTokensAreKnown) {
  for (const std::int32_t period : {1, 2, 7, 16}) {
    EXPECT_TRUE(repeats_endlessly(repeated(1024, period))) << period;
    EXPECT_FALSE(repeats_endlessly(repeated(1023, period))) << period;
  }
  EXPECT_FALSE(repeats_endlessly(repeated(4096, 17)));
  EXPECT_FALSE(repeats_endlessly({}));
}

TEST(PromptShape, AFewWordsInBetweenDoNotHideThem) {
  auto prompt = repeated(2000, 3);
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) prompt[random() % 2000] = 99;
  EXPECT_TRUE(repeats_endlessly(prompt));
}

// Natural text draws few tokens often; a table has a rule in each row.
TEST(PromptShape, TextAndTablesPass) {
  std::mt19937 random(2);
  std::geometric_distribution<std::int32_t> words(0.05);
  std::vector<std::int32_t> text(8192);
  for (auto& token : text) token = words(random);
  EXPECT_FALSE(repeats_endlessly(text));
  for (std::size_t i = 0; i < text.size(); i += 12) {
    for (std::size_t k = 0; k < 8 && i + k < text.size(); ++k) text[i + k] = 7;
  }
  EXPECT_FALSE(repeats_endlessly(text));
}

}  // namespace
}  // namespace plimsoll::cluster
