#include "cluster/pressure.h"

#include <gtest/gtest.h>

#include <random>

namespace plimsoll::cluster {
namespace {

class Ladder {
 public:
  PressureStep step(double share, std::optional<double> some = {},
                    std::optional<double> full = {}) {
    PressureSample sample{++seconds_, static_cast<std::uint64_t>(share * 1e9), 1'000'000'000, some,
                          full};
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
  const auto red = ladder.step(0.96);
  EXPECT_EQ(red.state.level, Level::red);
  EXPECT_STREQ(red.cause, "used");
  std::vector<Level> seen;
  for (int i = 0; i < 30; ++i) seen.push_back(ladder.step(0.5).state.level);
  EXPECT_EQ(seen[1], Level::red);
  EXPECT_EQ(seen[2], Level::orange);
  EXPECT_EQ(seen[5], Level::yellow);
  EXPECT_EQ(seen[8], Level::green);
  EXPECT_EQ(seen.back(), Level::green);
}

TEST(Pressure, DoesNotFlapAroundAThreshold) {
  Ladder ladder;
  ladder.step(0.79);
  int changes = 0;
  Level last = ladder.level();
  for (int i = 0; i < 100; ++i) {
    const Level now = ladder.step(i % 2 == 0 ? 0.805 : 0.795).state.level;
    changes += now != last ? 1 : 0;
    last = now;
  }
  EXPECT_EQ(changes, 1);
  EXPECT_EQ(last, Level::yellow);
}

TEST(Pressure, FastGrowthCountsBeforeItArrivesButNeverReachesRed) {
  Ladder ladder;
  Level highest = Level::green;
  for (double share = 0.30; share < 0.74; share += 0.06) {
    const auto step = ladder.step(share);
    highest = std::max(highest, step.state.level);
    if (step.state.level > Level::green) {
      EXPECT_STREQ(step.cause, "growth");
    }
  }
  EXPECT_EQ(highest, Level::orange);
}

TEST(Pressure, StallsCountAndTheirAbsenceDoesNot) {
  Ladder ladder;
  EXPECT_EQ(ladder.step(0.1, 15.0, 0.0).state.level, Level::yellow);
  EXPECT_EQ(ladder.step(0.1, 15.0, 25.0).state.level, Level::red);
  EXPECT_STREQ(ladder.step(0.1, 15.0, 25.0).cause, "stalls");
  for (int i = 0; i < 12; ++i) ladder.step(0.1);
  EXPECT_EQ(ladder.level(), Level::green);
}

TEST(Pressure, WithoutALimitOnlyStallsCount) {
  const auto step = fold({}, {}, {1, 1'000'000'000'000, 0, {}, {}});
  EXPECT_EQ(step.state.level, Level::green);
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
        if (share >= config.used_share[rung] + 1e-6) {
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
