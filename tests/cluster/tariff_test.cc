#include "cluster/tariff.h"

#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

constexpr double gib_hour = 3600.0 * (1ULL << 30);

TEST(Tariff, MoneyIsReadAndWrittenExactly) {
  EXPECT_EQ(parse_micros("0"), 0);
  EXPECT_EQ(parse_micros("12"), 12'000'000);
  EXPECT_EQ(parse_micros("0.02"), 20'000);
  EXPECT_EQ(parse_micros("0.000001"), 1);
  EXPECT_EQ(parse_micros("999999999.999999"), 999'999'999'999'999);
  for (const auto* bad : {"", ".", ".5", "1.", "-1", "+1", "1e3", "0.0000001", "1,5", "1.2.3",
                          "9999999999", " 1", "0x1"}) {
    EXPECT_FALSE(parse_micros(bad)) << bad;
  }
  EXPECT_EQ(to_decimal(0), "0.000000");
  EXPECT_EQ(to_decimal(12'500'000), "12.500000");
  EXPECT_EQ(to_decimal(-1), "-0.000001");
}

TEST(Tariff, PricesEachLineAndTheTotalIsTheirSum) {
  Tariff tariff;
  tariff.kv = *parse_micros("0.05");
  tariff.cache = *parse_micros("0.01");
  tariff.weights = *parse_micros("0.002");
  tariff.prompt = *parse_micros("0.10");
  tariff.cached = *parse_micros("0.02");
  tariff.generated = *parse_micros("0.40");
  tariff.tier_factor[static_cast<std::size_t>(Tier::guaranteed)] = *parse_micros("1.5");
  Usage usage;
  usage.prompt_tokens = 3'000'000;
  usage.cached_tokens = 1'000'000;
  usage.generated_tokens = 500'000;
  usage.kv_byte_seconds = 10 * gib_hour;
  usage.cache_byte_seconds = 100 * gib_hour;
  usage.weights_byte_seconds = 7.5 * gib_hour;
  const auto bill = price(tariff, Tier::standard, usage);
  EXPECT_EQ(to_decimal(bill.kv), "0.500000");
  EXPECT_EQ(to_decimal(bill.cache), "1.000000");
  EXPECT_EQ(to_decimal(bill.weights), "0.015000");
  EXPECT_EQ(to_decimal(bill.prompt), "0.200000") << "the cached ones are not paid for twice";
  EXPECT_EQ(to_decimal(bill.cached), "0.020000");
  EXPECT_EQ(to_decimal(bill.generated), "0.200000");
  EXPECT_EQ(to_decimal(bill.total()), "1.935000");
  EXPECT_EQ(to_decimal(price(tariff, Tier::guaranteed, usage).total()), "2.902500");
  EXPECT_EQ(price(tariff, std::nullopt, usage), bill) << "no tier, no factor";
}

TEST(Tariff, LargeCountsNeitherOverflowNorLoseATokensPrice) {
  Tariff tariff;
  tariff.prompt = *parse_micros("1");  // a token is one millionth
  Usage usage;
  usage.prompt_tokens = 1'000'000'000'000'003;
  EXPECT_EQ(to_decimal(price(tariff, Tier::standard, usage).total()), "1000000000.000003");
}

TEST(Tariff, WhatWasUsedBetweenTwoMoments) {
  Usage before;
  before.prompt_tokens = 10;
  before.cache_byte_seconds = 5;
  Usage after = before;
  after.prompt_tokens = 15;
  after.weights_byte_seconds = 2;
  const auto used = between(before, after);
  EXPECT_EQ(used.prompt_tokens, 5U);
  EXPECT_EQ(used.cache_byte_seconds, 0);
  EXPECT_EQ(used.weights_byte_seconds, 2);
  EXPECT_EQ(between(after, before).prompt_tokens, 0U) << "a tenant that was made anew";
}

}  // namespace
}  // namespace plimsoll::cluster
