#include "cluster/pressure.h"

#include <gtest/gtest.h>

#include <random>

namespace plimsoll::cluster {
namespace {

class Ladder {
 public:
  PressureStep step(double share, std::optional<double> some = {},
                    std::optional<double> full = {}) {
    PressureSample sample;
    sample.seconds = ++seconds_;
    sample[Scope::process] = {static_cast<std::uint64_t>(share * 1e9), 1'000'000'000};
    sample.some_avg10 = some;
    sample.full_avg10 = full;
    return step(sample);
  }
  PressureStep step(const PressureSample& sample) {
    const auto step = fold({}, state_, sample);
    state_ = step.state;
    return step;
  }
  Level level() const { return state_.level; }

 private:
  double seconds_ = 0;
  PressureState state_;
};

TEST(Pressure, ClimbsAtOnceAndComesDownARungAtATime) {
  Ladder ladder;
  EXPECT_EQ(ladder.step(0.5).state.level, Level::green);
  const auto red = ladder.step(0.985);
  EXPECT_EQ(red.state.level, Level::red);
  EXPECT_EQ(red.cause, "process uses 939.4 MiB of 953.7 MiB (98.5%)");
  // Down to where orange is left: 5% and a slack of 3% below the limit.
  EXPECT_NEAR(static_cast<double>(red.excess_bytes), 65e6, 1e6);
  std::vector<Level> seen;
  for (int i = 0; i < 30; ++i) seen.push_back(ladder.step(0.5).state.level);
  EXPECT_EQ(seen[2], Level::red);
  EXPECT_EQ(seen[3], Level::orange);
  EXPECT_EQ(seen[6], Level::yellow);
  EXPECT_EQ(seen[9], Level::green);
  EXPECT_EQ(seen.back(), Level::green);
}

TEST(Pressure, DoesNotFlapAroundAThreshold) {
  Ladder ladder;
  ladder.step(0.91);
  int changes = 0;
  Level last = ladder.level();
  for (int i = 0; i < 100; ++i) {
    const Level now = ladder.step(i % 2 == 0 ? 0.925 : 0.915).state.level;
    changes += now != last ? 1 : 0;
    last = now;
  }
  EXPECT_EQ(changes, 1);
  EXPECT_EQ(last, Level::yellow);
}

TEST(Pressure, FastGrowthCountsBeforeItArrivesButNeverReachesRed) {
  Ladder ladder;
  Level highest = Level::green;
  for (double share = 0.30; share < 0.90; share += 0.06) {
    const auto step = ladder.step(share);
    highest = std::max(highest, step.state.level);
    if (step.state.level > Level::green) {
      EXPECT_NE(step.cause.find("grows by"), std::string::npos) << step.cause;
      EXPECT_TRUE(step.seconds_left);
    }
    EXPECT_EQ(step.excess_bytes, 0U);  // nothing is taken for what may not come
  }
  EXPECT_EQ(highest, Level::orange);
}

// 1 GB, of which the process may come to 0.85: it takes 0.06 a second up to `own_until`, others so
// much at a time as well.
Level highest_while_growing(double own_until, double others_step) {
  Ladder ladder;
  Level highest = Level::green;
  double own = 0.30, others = 0.02;
  for (int second = 1; own < own_until; ++second, own += 0.06, others += others_step) {
    PressureSample sample;
    sample.seconds = second;
    sample.own_bytes = static_cast<std::uint64_t>(own * 1e9);
    sample.planned_bytes = 850'000'000;
    sample[Scope::process] = {sample.own_bytes, 1'000'000'000};
    sample[Scope::machine] = {static_cast<std::uint64_t>((own + others) * 1e9), 1'000'000'000};
    const auto step = ladder.step(sample);
    highest = std::max(highest, step.state.level);
    if (others_step == 0 && own < 0.85) EXPECT_FALSE(step.seconds_left);
  }
  return highest;
}

TEST(Pressure, PlannedGrowthIsNotTakenToGoOnBeyondThePlan) {
  EXPECT_EQ(highest_while_growing(0.85, 0), Level::green);
  EXPECT_EQ(highest_while_growing(0.85, 0.01), Level::orange);  // others have no plan
  EXPECT_EQ(highest_while_growing(0.91, 0), Level::orange);     // well over its own
}

TEST(Pressure, StallsCountAndTheirAbsenceDoesNot) {
  Ladder ladder;
  EXPECT_EQ(ladder.step(0.1, 15.0, 0.0).state.level, Level::yellow);
  EXPECT_EQ(ladder.step(0.1, 15.0, 25.0).state.level, Level::red);
  const auto stalled = ladder.step(0.1, 15.0, 25.0);
  EXPECT_EQ(stalled.cause, "tasks stalled for memory 15.0% of the last 10 s (all of them 25.0%)");
  EXPECT_GT(stalled.excess_bytes, 0U);
  for (int i = 0; i < 12; ++i) ladder.step(0.1);
  EXPECT_EQ(ladder.level(), Level::green);
}

TEST(Pressure, WithoutALimitOnlyStallsCount) {
  PressureSample sample;
  sample.seconds = 1;
  sample[Scope::process] = {1'000'000'000'000, 0};
  EXPECT_EQ(fold({}, {}, sample).state.level, Level::green);
  sample.some_avg10 = 40;
  EXPECT_EQ(fold({}, {}, sample).state.level, Level::orange);
}

// A process well within its own limit is killed all the same if its group or the machine is full.
TEST(Pressure, TheFullestScopeDecides) {
  for (const Scope full : {Scope::process, Scope::cgroup, Scope::machine}) {
    PressureSample sample;
    sample.seconds = 1;
    for (const Scope scope : {Scope::process, Scope::cgroup, Scope::machine}) {
      sample[scope] = {scope == full ? 990'000'000U : 500'000'000U, 1'000'000'000};
    }
    const auto step = fold({}, {}, sample);
    EXPECT_EQ(step.state.level, Level::red);
    EXPECT_EQ(step.scope, full);
    EXPECT_EQ(step.cause.find(to_string(full)), 0U) << step.cause;
  }
}

// Of a small limit the least free bytes count, but never so many that nothing could run.
TEST(Pressure, LeavesBytesFreeThatAnOomKillCannotOutrun) {
  const PressureConfig config;
  EXPECT_EQ(begins_at(config, Level::red, 100ULL << 30), (98ULL << 30));
  EXPECT_EQ(begins_at(config, Level::red, 512 << 20), 496U << 20);
  EXPECT_EQ(begins_at(config, Level::yellow, 512 << 20), 464U << 20);
  EXPECT_EQ(begins_at(config, Level::yellow, 100'000'000), 80'000'000U);
}

// Whatever comes: at or over a rung's share the level is at least that rung, and ten calm samples
// always end at green.
TEST(Pressure, NeverBelowWhatIsUsedAndAlwaysRecovers) {
  std::mt19937 random(11);
  const PressureConfig config;
  for (int run = 0; run < 200; ++run) {
    Ladder ladder;
    for (int i = 0; i < 50; ++i) {
      const double share = static_cast<double>(random() % 1100) / 1000;
      const Level level = ladder.step(share).state.level;
      for (int rung = 0; rung < 3; ++rung) {
        if (share >= 1 - config.free_share[rung] + 1e-6) {
          ASSERT_GE(static_cast<int>(level), rung + 1);
        }
      }
    }
    for (int i = 0; i < 25; ++i) ladder.step(0.2);
    ASSERT_EQ(ladder.level(), Level::green);
  }
}

}  // namespace
}  // namespace plimsoll::cluster
