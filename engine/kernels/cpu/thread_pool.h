// A fixed pool of threads for one engine. Workers spin briefly, then park.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace plimsoll {

class ThreadPool {
 public:
  // threads >= 1. With 1, everything runs on the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // fn(rank) once for each rank in [0, threads()), each rank by one thread; returns when all have
  // run. Rank 0 is the caller's; it also takes the ranks that no worker has begun by then, so that
  // a worker that wakes late, on a busy processor, costs nothing. Allocates nothing. One caller at
  // a time; fn may not throw.
  template <class F>
  void run(F&& fn) {
    using Fn = std::remove_reference_t<F>;
    run_erased([](void* context, int rank) { (*static_cast<Fn*>(context))(rank); },
               const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Splits [0, n) evenly into at most threads() ranges, borders at multiples of `grain`, and calls
  // fn(begin, end, rank) for each that is not empty.
  template <class F>
  void parallel_for(std::size_t n, std::size_t grain, F&& fn) {
    const std::size_t pieces = (n + grain - 1) / grain;
    if (threads_ == 1 || pieces <= 1) {
      if (n > 0) fn(std::size_t{0}, n, 0);
      return;
    }
    run([&](int rank) {
      const std::size_t begin = pieces * rank / threads_ * grain;
      std::size_t end = pieces * (rank + 1) / threads_ * grain;
      if (end > n) end = n;
      if (begin < end) fn(begin, end, rank);
    });
  }

 private:
  void run_erased(void (*call)(void*, int), void* context);
  struct State;
  int threads_;
  std::unique_ptr<State> state_;
};

}  // namespace plimsoll
