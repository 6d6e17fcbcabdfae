#include "cluster/sizing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t gib = 1 << 30;

// Something that takes 100 MiB, 2 MiB for each sequence of a batch of 64, 0.25 MiB for each token
// of a step of 512, and a pool.
struct Problem : SizingProblem {
  explicit Problem(std::uint64_t limit_mib, KvNeed kv = {"m", mib, 16 * mib, 2 * gib, {}}) {
    limit = {Scope::process, limit_mib * mib, 0};
    knobs = {{"engine.max_batch", 64, 1, 1, {}}, {"engine.step_tokens", 512, 64, 16, {}}};
    needs = [kv](const auto& values) {
      return SizingNeeds{{{"runtime", "", 100 * mib, "is there"},
                          {"activations", "m", values[0] * 2 * mib + values[1] * mib / 4, ""}},
                         {kv}};
    };
  }
};

TEST(Sizing, ThePoolGetsTheRestAndAFullOneStaysBelowOrange) {
  const auto plan = plan_memory(Problem(1024));
  EXPECT_EQ(plan.missing_bytes, 0U);
  ASSERT_EQ(plan.kv.size(), 1U);
  const std::uint64_t fixed = (100 + 128 + 128) * mib;
  EXPECT_EQ(plan.kv[0].bytes, begins_at({}, Level::orange, gib) - fixed);
  EXPECT_EQ(plan.peak_bytes, plan.kv[0].bytes + fixed);
  EXPECT_LE(plan.peak_bytes, begins_at({}, Level::orange, gib));
}

TEST(Sizing, WhatOthersHoldIsNotThere) {
  Problem problem(1024);
  const auto alone = plan_memory(problem).kv[0].bytes;
  problem.limit.others_bytes = 200 * mib;
  EXPECT_EQ(plan_memory(problem).kv[0].bytes, alone - 200 * mib);
}

TEST(Sizing, NoPoolIsLargerThanItCanBeOfUse) {
  const auto plan = plan_memory(Problem(64 * 1024));
  EXPECT_EQ(plan.kv[0].bytes, 2 * gib);
  EXPECT_EQ(plan.kv[0].why, "as much as can be of use");
}

TEST(Sizing, OfAMachineThatIsNobodysItTakesAPart) {
  Problem problem(4096);
  problem.kv_share = 0.25;
  const auto left = begins_at({}, Level::orange, 4 * gib) - (100 + 128 + 128) * mib;
  EXPECT_NEAR(static_cast<double>(plan_memory(problem).kv[0].bytes),
              0.25 * static_cast<double>(left), 2);
}

TEST(Sizing, ASizeThatIsSetIsTakenAsItIsOrRefused) {
  auto plan = plan_memory(Problem(1024, {"m", mib, 16 * mib, 2 * gib, 300 * mib}));
  EXPECT_EQ(plan.missing_bytes, 0U);
  EXPECT_EQ(plan.kv[0].bytes, 300 * mib);
  plan = plan_memory(Problem(1024, {"m", mib, 16 * mib, 2 * gib, 700 * mib}));
  EXPECT_EQ(plan.missing_bytes, (700 + 356) * mib - begins_at({}, Level::orange, gib));
}

TEST(Sizing, PoolsShareByTokensAndWhatOneCannotUseTheOthersGet) {
  Problem problem(1024);
  problem.needs = [](const auto&) {
    return SizingNeeds{{},
                       {{"small", 1000, 1000, 100 * gib, {}},
                        {"large", 3000, 3000, 100 * gib, {}},
                        {"tiny", 1000, 1000, 50'000, {}},
                        {"set", 1000, 1000, 100 * gib, 10 * mib}}};
  };
  const auto plan = plan_memory(problem);
  ASSERT_EQ(plan.kv.size(), 4U);
  EXPECT_EQ(plan.kv[2].bytes, 50'000U);
  EXPECT_EQ(plan.kv[3].bytes, 10 * mib);
  EXPECT_NEAR(static_cast<double>(plan.kv[1].bytes), 3.0 * static_cast<double>(plan.kv[0].bytes),
              10);
  const auto budget = begins_at({}, Level::orange, gib);
  EXPECT_LE(plan.peak_bytes, budget);
  EXPECT_GE(plan.peak_bytes + 10, budget) << "nothing is left lying";
}

TEST(Sizing, WhatDoesNotFitSaysHowMuchAndWhatWould) {
  const Problem problem(320);  // 356 MiB and a pool of 16
  const auto plan = plan_memory(problem);
  const auto budget = begins_at({}, Level::orange, 320 * mib);
  EXPECT_EQ(plan.missing_bytes, 372 * mib - budget);  // 84 MiB
  EXPECT_THAT(plan.remedies, ElementsAre("engine.max_batch to 22", "engine.step_tokens to 176"));
  for (const auto& values : {std::vector<std::uint64_t>{22, 512}, {64, 176}}) {
    auto lowered = problem;
    lowered.knobs[0].value = values[0];
    lowered.knobs[1].value = values[1];
    EXPECT_EQ(plan_memory(lowered).missing_bytes, 0U);
    lowered.knobs[0].value += values[0] < 64 ? 1 : 0;
    lowered.knobs[1].value += values[1] < 512 ? 16 : 0;
    EXPECT_GT(plan_memory(lowered).missing_bytes, 0U) << "no more than it must be lowered";
  }
  auto raised = problem;
  raised.limit.limit_bytes = plan.enough_bytes;
  EXPECT_EQ(plan_memory(raised).missing_bytes, 0U);
  raised.limit.limit_bytes -= mib;
  EXPECT_GT(plan_memory(raised).missing_bytes, 0U);
  const auto text = refusal_text(plan);
  EXPECT_THAT(text,
              HasSubstr("needs 84 MiB more: of 320 MiB, memory_limit, less 32 MiB of reserve"));
  EXPECT_THAT(text, HasSubstr("lower engine.max_batch to 22, or engine.step_tokens to 176, or "
                              "raise the limit to 404 MiB"));
}

TEST(Sizing, WhereOneSettingIsNotEnoughSeveralAreNamedTogether) {
  auto plan = plan_memory(Problem(200));  // 116 MiB and steps, in 172
  EXPECT_THAT(plan.remedies, ElementsAre("engine.max_batch to 1 and engine.step_tokens to 208"));
  plan = plan_memory(Problem(100));  // never
  EXPECT_TRUE(plan.remedies.empty());
  EXPECT_THAT(refusal_text(plan), HasSubstr("raise the limit to"));
}

TEST(Sizing, TheTightestLimitIsWhatLeavesLeast) {
  const SizingLimit process{Scope::process, 1 * gib, 0};
  const SizingLimit group{Scope::cgroup, 2 * gib, 1536 * mib};
  const SizingLimit machine{Scope::machine, 64 * gib, 8 * gib};
  EXPECT_EQ(tightest({}, {process, group, machine}).scope, Scope::cgroup);
  EXPECT_EQ(tightest({}, {process, machine}).scope, Scope::process);
  EXPECT_EQ(tightest({}, {machine}).scope, Scope::machine);
}

TEST(Sizing, TheTableAddsUp) {
  Problem problem(1024);
  problem.limit.others_bytes = 10 * mib;
  const auto table = plan_table(plan_memory(problem));
  EXPECT_THAT(table, HasSubstr("runtime"));
  EXPECT_THAT(table, HasSubstr("activations  m"));
  EXPECT_THAT(table, HasSubstr("1024.0  memory_limit"));
  EXPECT_THAT(table, HasSubstr("others"));
}

}  // namespace
}  // namespace plimsoll::cluster
