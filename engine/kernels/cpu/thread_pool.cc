#include "engine/kernels/cpu/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "engine/base/thread_slice.h"
#include "hwy/cache_control.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

// A step issues a few hundred run() calls that lie a few microseconds apart: within that time a
// spinning worker starts at once, while waking a parked one costs more than the work itself.
constexpr auto spin_time = std::chrono::microseconds(50);

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

// Blocks until `value` is no longer `old`, and returns it.
std::uint32_t wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old,
                              bool spin) {
  std::uint32_t now = value.load(std::memory_order_acquire);
  if (now != old) return now;
  if (spin) {
    const auto deadline = Clock::now() + spin_time;
    do {
      for (int i = 0; i < 32; ++i) {
        hwy::Pause();
        now = value.load(std::memory_order_acquire);
        if (now != old) return now;
      }
    } while (Clock::now() < deadline);
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

// Each counter sits on its own cache line: the workers poll `round`, the caller `running`.
struct ThreadPool::State {
  alignas(64) std::atomic<std::uint32_t> round{0};  // one more: there is work, or `stop` is set
  // Hands out the ranks of a round: 0 is the caller's. A worker that comes late finds none left,
  // or takes one of a newer round; `call` and `context` are the ones of whatever it took, since
  // they do not change while a rank that was taken runs.
  alignas(64) std::atomic<std::uint32_t> next_rank{~0U / 2};
  alignas(64) std::atomic<std::uint32_t> running{0};
  void (*call)(void*, int) = nullptr;
  void* context = nullptr;
  std::uint32_t ranks = 0;
  std::atomic<bool> stop{false};
  bool spin = true;
  std::vector<std::thread> workers;

  void run_ranks() {
    for (;;) {
      const std::uint32_t rank = next_rank.fetch_add(1, std::memory_order_acq_rel);
      if (rank >= ranks) return;
      call(context, static_cast<int>(rank));
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
  void work() {
    set_usual_slice();
    std::uint32_t seen = 0;
    for (;;) {
      seen = wait_for_change(round, seen, spin);
      if (stop.load(std::memory_order_relaxed)) return;
      run_ranks();
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), state_(std::make_unique<State>()) {
  assert(threads >= 1);
  // With more threads than processors a spinning thread keeps the one it waits for from running.
  state_->spin = threads <= usable_processors();
  state_->ranks = static_cast<std::uint32_t>(threads);
  state_->workers.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) {
    state_->workers.emplace_back([state = state_.get()] { state->work(); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->round.fetch_add(1, std::memory_order_release);
  state_->round.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::run_erased(void (*call)(void*, int), void* context) {
  if (threads_ == 1) {
    call(context, 0);
    return;
  }
  State& state = *state_;
  state.call = call;
  state.context = context;
  state.running.store(state.ranks - 1, std::memory_order_relaxed);
  state.next_rank.store(1, std::memory_order_release);
  state.round.fetch_add(1, std::memory_order_release);
  state.round.notify_all();
  call(context, 0);
  state.run_ranks();
  std::uint32_t left = state.running.load(std::memory_order_acquire);
  while (left != 0) left = wait_for_change(state.running, left, state.spin);
}

}  // namespace plimsoll
