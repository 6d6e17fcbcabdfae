#include "cli/scorecard/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace plimsoll::cli::scorecard {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

Result<std::vector<Request>> read(const std::string& text, const TraceOptions& options = {}) {
  std::istringstream in(text);
  auto source = open_trace(in, "t", options);
  if (!source) return fail(source.error());
  std::vector<Request> out;
  while (true) {
    auto request = (*source)->next();
    if (!request) return fail(request.error());
    if (!*request) return out;
    out.push_back(**request);
  }
}

TEST(AzureTrace, Of2023) {
  const auto all = read(std::string(header) +
                        "2023-11-16 23:59:59.9000000,4808,10\r\n"
                        "2023-11-17 00:00:00.4000000,374,44");
  ASSERT_TRUE(all) << all.error().message;
  ASSERT_EQ(all->size(), 2U);
  EXPECT_EQ((*all)[0].at_s, 0);
  EXPECT_NEAR((*all)[1].at_s, 0.5, 1e-5) << "over midnight";
  EXPECT_EQ((*all)[0].prompt_tokens, 4808U);
  EXPECT_EQ((*all)[1].output_tokens, 44U);
  EXPECT_EQ((*all)[1].index, 1U);
}

TEST(AzureTrace, Of2024) {
  TraceOptions options;
  options.speed = 2;
  options.length_scale = 0.1;
  const auto all = read("\xEF\xBB\xBF" + std::string(header) +
                            "2024-05-10 00:00:00.009930+00:00,2162,5\n\n"
                            "2024-05-10 02:00:10.009930+02:00,2399,0\n"
                            "2024-05-10 00:00:20+00:00,1,1\n",
                        options);
  ASSERT_TRUE(all) << all.error().message;
  ASSERT_EQ(all->size(), 3U);
  EXPECT_NEAR((*all)[1].at_s, 5, 1e-5);
  EXPECT_NEAR((*all)[2].at_s, 10, 0.01);
  EXPECT_EQ((*all)[0].prompt_tokens, 216U);
  EXPECT_EQ((*all)[1].output_tokens, 1U) << "never nothing";
}

TEST(AzureTrace, ALateRowComesWithTheOneBeforeIt) {
  const auto all = read(std::string(header) +
                        "2023-11-16 18:00:05,1,1\n2023-11-16 18:00:09,1,1\n"
                        "2023-11-16 18:00:07,1,1\n2023-11-16 18:00:03,1,1\n");
  ASSERT_TRUE(all);
  std::vector<double> times;
  for (const auto& r : *all) times.push_back(r.at_s);
  EXPECT_THAT(times, ElementsAre(0, 4, 4, 4));
}

TEST(MooncakeTrace, TheSameHashIdsAreTheSameTokens) {
  const auto all = read(
      R"({"timestamp": 100, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, 9]})"
      "\n"
      R"({"timestamp": 1600, "input_length": 1500, "output_length": 6, "hash_ids": [7, 8, 10]})"
      "\n"
      R"({"timestamp": 1600.5, "input_length": 700, "output_length": 6, "hash_ids": [10, 7]})"
      "\n");
  ASSERT_TRUE(all) << all.error().message;
  ASSERT_EQ(all->size(), 3U);
  EXPECT_EQ((*all)[0].at_s, 0);
  EXPECT_DOUBLE_EQ((*all)[1].at_s, 1.5);
  const auto a = prompt_of((*all)[0], 1, 1000);
  const auto b = prompt_of((*all)[1], 1, 1000);
  const auto c = prompt_of((*all)[2], 1, 1000);
  EXPECT_EQ(a.size(), 1100U);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 1024, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 1024, a.end(), b.begin() + 1024));
  EXPECT_TRUE(std::equal(c.begin(), c.begin() + 476, b.begin() + 1024)) << "wherever a block is";
  EXPECT_TRUE(std::equal(c.begin() + 512, c.end(), a.begin()));
}

TEST(MooncakeTrace, BlocksAreScaledWithTheLengths) {
  TraceOptions options;
  options.length_scale = 1.0 / 16;
  const auto all =
      read(R"({"timestamp": 0, "input_length": 1536, "output_length": 320, "hash_ids": [1, 2, 3]})",
           options);
  ASSERT_TRUE(all);
  EXPECT_EQ((*all)[0].prompt_tokens, 96U);
  EXPECT_EQ((*all)[0].block_tokens, 32U);
  EXPECT_EQ((*all)[0].output_tokens, 20U);
}

TEST(Trace, TenantsAreDrawnAndTheSameEachTime) {
  std::string text = header;
  for (int i = 0; i < 300; ++i) text += "2023-11-16 18:00:05,1,1\n";
  TraceOptions options;
  options.tenants = {0, 3, 1};
  const auto all = read(text, options);
  ASSERT_TRUE(all);
  std::vector<int> counts(3);
  for (const auto& r : *all) ++counts.at(r.tenant);
  EXPECT_GT(counts[0], counts[1]);
  EXPECT_GT(counts[2], 20);
  EXPECT_EQ(*read(text, options), *all);
}

struct Wrong {
  std::string text;
  const char* message;
};
class WrongTrace : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongTrace, IsToldWithItsLine) {
  const auto all = read(GetParam().text);
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().code, ErrorCode::malformed);
  EXPECT_THAT(all.error().message, HasSubstr(GetParam().message));
}

std::string azure(const std::string& row) {
  return header + ("2023-11-16 18:00:05,1,1\n" + row) + "\n";
}
std::string mooncake(const std::string& row) {
  return R"({"timestamp": 0, "input_length": 1, "output_length": 1})"
         "\n\n" +
         row;
}
INSTANTIATE_TEST_SUITE_P(
    Traces, WrongTrace,
    ::testing::Values(
        Wrong{"", "t:1: the file is empty"}, Wrong{"time,tokens\n", "t:1: neither the header"},
        Wrong{azure("2023-11-16 18:00:05,1"), "t:3: not the three columns"},
        Wrong{azure("2023-13-16 18:00:05,1,1"), "t:3: TIMESTAMP"},
        Wrong{azure("2023-02-29 18:00:05,1,1"), "t:3: TIMESTAMP"},
        Wrong{azure("2023-11-16 18:00:05.,1,1"), "t:3: TIMESTAMP"},
        Wrong{azure("2023-11-16 18:00:-5,1,1"), "t:3: TIMESTAMP"},
        Wrong{azure("2023-11-16 18:00:05+0000,1,1"), "t:3: TIMESTAMP"},
        Wrong{azure("2023-11-16 18:00:05,-1,1"), "t:3: ContextTokens"},
        Wrong{azure("2023-11-16 18:00:05,1,1,1"), "t:3: GeneratedTokens"},
        Wrong{azure("2023-11-16 18:00:05,1,10000001"), "t:3: GeneratedTokens"},
        Wrong{mooncake("[1]"), "t:3: not a JSON object"},
        Wrong{mooncake(R"({"timestamp": 0,)"), "t:3: not a JSON object"},
        Wrong{mooncake(R"({"input_length": 1, "output_length": 1})"), "t:3: timestamp"},
        Wrong{mooncake(R"({"timestamp": -1, "input_length": 1, "output_length": 1})"), "timestamp"},
        Wrong{mooncake(R"({"timestamp": 1, "input_length": "9", "output_length": 1})"),
              "t:3: input_length"},
        Wrong{mooncake(R"({"timestamp": 1, "input_length": 9, "output_length": 1e9})"),
              "t:3: output_length"},
        Wrong{mooncake(R"({"timestamp":1,"input_length":9,"output_length":1,"hash_ids":[-1]})"),
              "t:3: hash_ids"},
        Wrong{mooncake(std::string(2 << 20, ' ')), "t:3: the line is longer than 1048576 bytes"}));

}  // namespace
}  // namespace plimsoll::cli::scorecard
