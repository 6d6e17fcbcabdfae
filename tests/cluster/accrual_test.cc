#include "cluster/accrual.h"

#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

TEST(Accrual, WhatSequencesDoNotHoldIsCache) {
  const HeldMemory held{{{"a", 100}, {"b", 50}, {"c", 10}}, {}};
  const auto usage = accrue(held, {{"a", 30}, {"b", 60}}, {}, 2);
  EXPECT_EQ(usage.at("a").cache_byte_seconds, 140);
  EXPECT_FALSE(usage.contains("b")) << "what is shared between sequences is paid for as theirs";
  EXPECT_EQ(usage.at("c").cache_byte_seconds, 20);
  EXPECT_EQ(usage.at("a").kv_byte_seconds, 0) << "that is counted where sequences end";
}

TEST(Accrual, WeightsAreDividedByTokensAndElseIdle) {
  const HeldMemory held{{}, {{"m", 1000}, {"n", 400}, {"o", 7}}};
  const auto usage = accrue(held, {}, {{"m", {{"a", 30}, {"b", 10}}}, {"n", {{"a", 0}}}}, 10);
  EXPECT_EQ(usage.at("a").weights_byte_seconds, 7500);
  EXPECT_EQ(usage.at("b").weights_byte_seconds, 2500);
  EXPECT_EQ(usage.at(idle_tenant).weights_byte_seconds, 4070);
  double all = 0;
  for (const auto& [tenant, used] : usage) all += used.weights_byte_seconds;
  EXPECT_EQ(all, 14070) << "none is lost, none is paid for twice";
}

}  // namespace
}  // namespace plimsoll::cluster
