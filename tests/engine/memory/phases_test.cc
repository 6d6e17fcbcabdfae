#include "engine/memory/phases.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

constexpr std::uint64_t mib = 1 << 20;

// A sample a second, from `begin` to before `end`.
template <class Bytes>
void feed(PhaseRecorder& recorder, int begin, int end, Bytes bytes) {
  for (int second = begin; second < end; ++second) {
    recorder.sample(1e6 + second, static_cast<std::uint64_t>(bytes(second)));
  }
}

TEST(Phases, AreAbsentUntilThereIsSomethingToSay) {
  PhaseRecorder recorder;
  EXPECT_EQ(recorder.phases(), MemoryPhases());
  feed(recorder, 0, 100, [](int) { return mib; });
  const auto cold = recorder.phases();
  EXPECT_EQ(cold.observed_s, 99);
  EXPECT_EQ(cold.cold_start_peak_bytes, mib);
  EXPECT_FALSE(cold.steady_bytes);
  feed(recorder, 100, 500, [](int) { return mib; });
  EXPECT_TRUE(recorder.phases().steady_bytes);
  EXPECT_FALSE(recorder.phases().growth_bytes_per_second) << "six minutes are no trend";
}

TEST(Phases, TheStartAndBurstsAreNotTheSteadyState) {
  PhaseRecorder recorder;
  feed(recorder, 0, 120, [](int s) { return s == 30 ? 900 * mib : 500 * mib; });
  feed(recorder, 120, 1800, [](int s) { return s >= 700 && s < 710 ? 250 * mib : 200 * mib; });
  const auto phases = recorder.phases();
  EXPECT_EQ(phases.cold_start_peak_bytes, 900 * mib);
  EXPECT_EQ(phases.steady_bytes, 200 * mib);
  EXPECT_EQ(phases.burst_bytes, 50 * mib);
  ASSERT_TRUE(phases.growth_bytes_per_second);
  EXPECT_LT(std::abs(*phases.growth_bytes_per_second), 0.05 * mib / 60) << "a burst is no trend";
}

TEST(Phases, ASlowLeakIsATrend) {
  PhaseRecorder recorder;
  feed(recorder, 0, 3600, [](int s) { return 100.0 * mib + 1000.0 * s + (s % 7) * 10'000.0; });
  EXPECT_NEAR(*recorder.phases().growth_bytes_per_second, 1000, 5);
}

TEST(Phases, WhatIsHoursAgoIsForgotten) {
  PhaseRecorder recorder;
  const int end = 120 + 60 * static_cast<int>(PhaseRecorder::minutes) * 2;
  feed(recorder, 0, end, [&](int s) { return s < end / 2 - 60 ? 900 * mib : 100 * mib; });
  const auto phases = recorder.phases();
  EXPECT_EQ(phases.steady_bytes, 100 * mib);
  EXPECT_EQ(phases.burst_bytes, 0U);
  EXPECT_NEAR(*phases.growth_bytes_per_second, 0, 1e-6);
}

}  // namespace
}  // namespace plimsoll
