#include "actors/governor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using testing::House;

bool eventually(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// A process of 1 GiB.
class Sampler {
 public:
  Result<cluster::PressureSample> operator()() {
    if (mebibytes == 0) return fail(ErrorCode::unavailable, "no such file");
    seconds_ += step_seconds;
    cluster::PressureSample sample;
    sample.seconds = seconds_;
    sample[cluster::Scope::process] = {mebibytes * 1_MiB, 1_GiB};
    return sample;
  }
  std::atomic<std::uint64_t> mebibytes{500};
  double step_seconds = 100;  // so that growth plays no part

 private:
  double seconds_ = 0;
};

std::vector<cluster::Event> events_of(const House& house, cluster::EventKind kind) {
  return house.board->events().find({.kind = kind});
}

TEST(Governor, TellsTheEnginesAndTheBoardAndRecovers) {
  House house;
  Sampler sampler;
  Governor governor({.sample = [&] { return sampler(); },
                     .board = house.board,
                     .node = house.nodes[0],
                     .interval = std::chrono::milliseconds(4)});
  sampler.mebibytes = 1010;
  const auto level_is = [&](PressureLevel level) {
    return [&house, level] {
      return house.board->pressure() == level && house.engines[0]->pressure == level;
    };
  };
  EXPECT_TRUE(eventually(level_is(PressureLevel::red)));
  const auto refused = house.generate("abc", 3);
  ASSERT_TRUE(refused->wait());
  EXPECT_EQ(refused->error->reason, "memory_pressure");
  sampler.mebibytes = 0;  // a reading that fails changes nothing
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(house.board->pressure(), PressureLevel::red);
  sampler.mebibytes = 100;
  EXPECT_TRUE(eventually(level_is(PressureLevel::green)));

  const auto levels = events_of(house, cluster::EventKind::level);
  ASSERT_EQ(levels.size(), 4U);  // up at once, down by the rung
  EXPECT_EQ(levels[0].level, cluster::Level::red);
  EXPECT_EQ(levels[0].used_bytes, 1010_MiB);
  EXPECT_EQ(levels[0].limit_bytes, 1_GiB);
  EXPECT_NE(levels[0].cause.find("process uses 1010.0 MiB of 1024.0 MiB"), std::string::npos)
      << levels[0].cause;
  EXPECT_EQ(levels[3].level, cluster::Level::green);
  const auto refusals = events_of(house, cluster::EventKind::refuse);
  ASSERT_EQ(refusals.size(), 1U);
  EXPECT_EQ(refusals[0].level, cluster::Level::red);
}

TEST(Governor, RaisesAnAlarmOfALeakWhileThereIsTime) {
  House house;
  Sampler sampler;
  sampler.step_seconds = 1;
  std::uint64_t leaked = 100_MiB;
  Governor governor({.sample = [&] { return sampler(); },
                     .anonymous =
                         [&] {
                           leaked += 1_MiB;
                           return AnonymousMemory{400_MiB + leaked, 400_MiB};
                         },
                     .board = house.board,
                     .node = house.nodes[0],
                     .interval = std::chrono::milliseconds(1)});
  ASSERT_TRUE(eventually([&] { return !events_of(house, cluster::EventKind::alarm).empty(); }));
  const auto alarm = events_of(house, cluster::EventKind::alarm)[0];
  EXPECT_NE(alarm.cause.find("1.00 MiB/s"), std::string::npos) << alarm.cause;
  ASSERT_TRUE(house.board->growth().alarm_left_s);
  EXPECT_NEAR(*house.board->growth().alarm_left_s, 524, 1);
}

TEST(Governor, SamplesThisProcess) {
  const auto sample = process_sampler(0)();
  ASSERT_TRUE(sample) << to_string(sample.error());
  EXPECT_EQ((*sample)[cluster::Scope::process].limit_bytes, 0U);
  const auto machine = (*sample)[cluster::Scope::machine];
  EXPECT_GT(machine.used_bytes, 100'000U);
  EXPECT_GT(machine.limit_bytes, machine.used_bytes);
  const auto planned = process_sampler(7, [] { return 9U; })();
  EXPECT_EQ(planned->planned_bytes, 9U);
  const auto limited = (*planned)[cluster::Scope::process];
  EXPECT_EQ(planned->own_bytes, limited.used_bytes);
  EXPECT_EQ(limited.limit_bytes, 7U);
  EXPECT_GT(limited.used_bytes, 100'000U);
}

}  // namespace
}  // namespace plimsoll
