#include "cluster/growth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace plimsoll::cluster {
namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t limit = 1024 * mib;

struct Watch {
  GrowthStep step(std::uint64_t bytes) {
    return fold({}, state, {++seconds, bytes}, limit - bytes);
  }
  GrowthState state;
  double seconds = 1e6;  // of a machine that has been up for days
};

TEST(Growth, ALeakIsAnnouncedMinutesBeforeTheLimit) {
  Watch watch;
  std::optional<double> left;
  std::uint64_t bytes = 500 * mib;
  int raised = 0;
  for (int i = 0; i < 60; ++i) {
    bytes += mib;
    const auto step = watch.step(bytes);
    raised += step.raised ? 1 : 0;
    if (step.raised) {
      left = step.seconds_left;
      EXPECT_NEAR(step.bytes_per_second, mib, 1);
      EXPECT_NEAR(*left, static_cast<double>(limit - bytes) / mib, 0.1);
    }
  }
  EXPECT_EQ(raised, 1);  // once, not every second
  ASSERT_TRUE(left);
  EXPECT_GT(*left, 60);
}

// 5 MiB/s to a limit 500 MiB away leaves 100 s: the alarm may take its 20 s and no more.
TEST(Growth, AFastLeakStillLeavesAMinute) {
  Watch watch;
  std::uint64_t bytes = 500 * mib;
  while (bytes < limit - 5 * mib) {
    bytes += 5 * mib;
    const auto step = watch.step(bytes);
    if (!step.raised) continue;
    EXPECT_GE(*step.seconds_left, 60);
    return;
  }
  FAIL() << "no alarm";
}

TEST(Growth, AStepOrALoadThatComesAndGoesIsNoLeak) {
  Watch step;
  Watch wave;
  std::mt19937 random(5);
  for (int i = 0; i < 600; ++i) {
    EXPECT_FALSE(step.step((i < 100 ? 300 : 500) * mib).raised) << i;
    const double swing = 60 * std::sin(i / 12.0) + static_cast<double>(random() % 20);
    EXPECT_FALSE(wave.step(static_cast<std::uint64_t>((400 + swing) * mib)).raised) << i;
  }
}

TEST(Growth, SlowGrowthThatNeedsHoursIsNotAnnounced) {
  Watch watch;
  std::uint64_t bytes = 300 * mib;
  for (int i = 0; i < 300; ++i) EXPECT_FALSE(watch.step(bytes += mib / 20).raised);
}

TEST(Growth, TheAlarmFallsWhenGrowthEnds) {
  Watch watch;
  std::uint64_t bytes = 300 * mib;
  for (int i = 0; i < 60; ++i) watch.step(bytes += 2 * mib);
  EXPECT_TRUE(watch.state.raised);
  for (int i = 0; i < 120; ++i) watch.step(bytes);
  EXPECT_FALSE(watch.state.raised);
  bool again = false;
  for (int i = 0; i < 60; ++i) again |= watch.step(bytes += 2 * mib).raised;
  EXPECT_TRUE(again);
}

}  // namespace
}  // namespace plimsoll::cluster
