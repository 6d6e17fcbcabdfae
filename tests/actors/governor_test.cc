#include "actors/governor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

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

TEST(Governor, TellsTheEnginesAndTheBoardAndRecovers) {
  House house;
  std::atomic<std::uint64_t> used{50};
  double seconds = 0;
  const auto sample = [&]() -> Result<cluster::PressureSample> {
    if (used == 0) return fail(ErrorCode::unavailable, "no such file");
    seconds += 100;  // so that growth plays no part
    return cluster::PressureSample{seconds, used, 100, {}, {}};
  };
  const auto governor = spawn_governor(house.system, {.sample = sample,
                                                      .board = house.board,
                                                      .node = house.nodes[0],
                                                      .interval = std::chrono::milliseconds(2)});
  used = 97;
  const auto level_is = [&](PressureLevel level) {
    return [&house, level] {
      return house.board->pressure() == level && house.engines[0]->pressure == level;
    };
  };
  EXPECT_TRUE(eventually(level_is(PressureLevel::red)));
  const auto refused = house.generate("abc", 3);
  ASSERT_TRUE(refused->wait());
  EXPECT_EQ(refused->error->reason, "memory_pressure");
  used = 0;  // a reading that fails changes nothing
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(house.board->pressure(), PressureLevel::red);
  used = 10;
  EXPECT_TRUE(eventually(level_is(PressureLevel::green)));
  caf::anon_send_exit(governor, caf::exit_reason::user_shutdown);
  // Its sampler refers to this frame.
  caf::scoped_actor self(house.system);
  self->wait_for(governor);
}

TEST(Governor, SamplesThisProcess) {
  const auto sample = process_sampler(0)();
  ASSERT_TRUE(sample) << to_string(sample.error());
  EXPECT_GT(sample->used_bytes, 100'000U);
  EXPECT_GT(sample->limit_bytes, sample->used_bytes);
  EXPECT_EQ(process_sampler(7)()->limit_bytes, 7U);
}

}  // namespace
}  // namespace plimsoll
