#include "actors/scheduler.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <vector>

namespace plimsoll {
namespace {

using namespace std::chrono_literals;

struct Config : caf::actor_system_config {
  explicit Config(std::size_t threads) {
    use_call_scheduler(*this);
    set("scheduler.max-threads", threads);
  }
};

// Passes a number on to the next of its ring until it is zero.
caf::behavior runner(caf::event_based_actor* self, caf::actor next,
                     const std::shared_ptr<std::promise<void>>& done) {
  auto to = std::make_shared<caf::actor>(std::move(next));
  return {
      [=](const caf::actor& first) { *to = first; },
      [=](std::uint32_t left) {
        if (left > 0) return self->send(*to, left - 1);
        done->set_value();
      },
  };
}

TEST(Scheduler, RunsEveryMessageOnAnyNumberOfThreads) {
  for (const std::size_t threads : {1, 2, 4}) {
    Config config(threads);
    caf::actor_system system(config);
    std::vector<std::future<void>> ends;
    std::vector<caf::actor> all;
    for (int ring = 0; ring < 8; ++ring) {
      const auto done = std::make_shared<std::promise<void>>();
      ends.push_back(done->get_future());
      const auto first = system.spawn(runner, caf::actor(), done);
      all.push_back(first);
      for (int i = 0; i < 5; ++i) all.push_back(system.spawn(runner, all.back(), done));
      const auto last = all.back();
      caf::anon_send(first, last);  // closes the ring
      caf::anon_send(last, std::uint32_t{2000});
    }
    for (auto& end : ends) ASSERT_EQ(end.wait_for(20s), std::future_status::ready);
    for (const auto& actor : all) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  }
}

TEST(Scheduler, AnIdleThreadTakesWhatABusyActorHasMadeReady) {
  Config config(2);
  caf::actor_system system(config);
  std::promise<void> heard;
  std::promise<bool> met;
  const auto other =
      system.spawn([&]() -> caf::behavior { return {[&](int) { heard.set_value(); }}; });
  const auto busy = system.spawn([&](caf::event_based_actor* self) -> caf::behavior {
    return {[&, self](int) {
      self->send(other, 1);
      met.set_value(heard.get_future().wait_for(20s) == std::future_status::ready);
    }};
  });
  caf::anon_send(busy, 1);
  EXPECT_TRUE(met.get_future().get());
}

TEST(Scheduler, AnActorThatSendsToManyReachesThemAll) {
  Config config(2);
  caf::actor_system system(config);
  std::atomic<int> heard{0};
  std::vector<caf::actor> many;
  for (int i = 0; i < 200; ++i) {
    many.push_back(system.spawn([&](caf::event_based_actor* self) -> caf::behavior {
      return {[&, self](int) {
        ++heard;
        self->quit();
      }};
    }));
  }
  const auto one = system.spawn([&](caf::event_based_actor* self) -> caf::behavior {
    return {[&, self](int) {
      for (const auto& actor : many) self->send(actor, 1);
      self->quit();
    }};
  });
  caf::anon_send(one, 1);
  system.await_all_actors_done();
  EXPECT_EQ(heard, 200);
}

TEST(Scheduler, StopsWhateverIsStillToDo) {
  for (int i = 0; i < 50; ++i) {
    Config config(2);
    caf::actor_system system(config);
    const auto busy = system.spawn([](caf::event_based_actor* self) -> caf::behavior {
      return {[self](int left) {
        if (left > 0) self->send(self, left - 1);
      }};
    });
    caf::anon_send(busy, 10);
  }
}

}  // namespace
}  // namespace plimsoll
