#include "engine/kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace plimsoll {
namespace {

TEST(ThreadPool, RunsEveryRankOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<int> calls(threads);
    for (int round = 0; round < 200; ++round) {
      pool.run([&](int rank) { ++calls[rank]; });  // a rank of its own each: no lock is needed
    }
    EXPECT_EQ(calls, std::vector<int>(threads, 200));
  }
}

TEST(ThreadPool, ResultsOfARunAreSeenByTheNext) {
  ThreadPool pool(4);
  std::vector<int> value(4);
  for (int round = 0; round < 500; ++round) {
    pool.run([&](int rank) { value[rank] = round; });
    int sum = 0;
    for (const int v : value) sum += v;
    ASSERT_EQ(sum, 4 * round);
    std::vector<int> neighbour(4);
    pool.run([&](int rank) { neighbour[rank] = value[(rank + 1) % 4]; });
    ASSERT_EQ(neighbour, std::vector<int>(4, round));
  }
}

TEST(ThreadPool, WakesParkedWorkers) {
  ThreadPool pool(3);
  std::vector<int> calls(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than workers spin
    pool.run([&](int rank) {
      if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // parks the caller
      ++calls[rank];
    });
  }
  EXPECT_EQ(calls, std::vector<int>(3, 5));
}

TEST(ThreadPool, ParallelForCoversEveryIndexOnceInAlignedRanges) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const std::size_t grain : {1, 8, 16}) {
      for (const std::size_t n : {0, 1, 7, 8, 15, 16, 17, 100, 129}) {
        std::vector<int> hits(n);
        pool.parallel_for(n, grain, [&](std::size_t begin, std::size_t end, int rank) {
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % grain, 0U);
          EXPECT_LT(rank, threads);
          for (std::size_t i = begin; i < end; ++i) ++hits[i];
        });
        EXPECT_EQ(hits, std::vector<int>(n, 1)) << threads << ' ' << grain << ' ' << n;
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll
