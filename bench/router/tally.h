// What a run of the router's bench is asked for, and what it counts.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <new>
#include <vector>

#include "bench/pretend/pretend_engine.h"

namespace plimsoll::router_bench {

inline std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Options {
  int nodes = 1;
  std::uint32_t streams = 64;  // that run on one node at a time
  std::uint32_t step_us = 20'000;
  std::uint32_t step_tokens = 1;
  std::uint32_t length = 256;  // tokens of a stream
  std::uint32_t window = 256;  // of credit
  double seconds = 5, warmup = 1;
  int threads = 2;          // of the actor system
  bool frontend = false;    // text to listeners, instead of tokens to bare sinks
  std::uint64_t total = 0;  // streams in all; 0: until the time is over
  int processes = 0;        // that the nodes are in; 0: the router's
  bool tls = false;         // between processes
};

// Counts by powers of two with 32 steps between each: within 3 %.
class Histogram {
 public:
  void add(std::int64_t ns) {
    const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(ns, 32));
    const int shift = std::bit_width(value) - 6;
    counts_[static_cast<std::size_t>(shift) * 32 + (value >> shift)].fetch_add(
        1, std::memory_order_relaxed);
  }
  double quantile_ms(double q) const {
    std::uint64_t all = 0, seen = 0;
    for (const auto& count : counts_) all += count;
    std::size_t i = 32;
    while (i + 1 < counts_.size() &&
           static_cast<double>(seen += counts_[i]) < q * static_cast<double>(all)) {
      ++i;
    }
    const std::size_t shift = i / 32 - 1;
    return static_cast<double>((i - shift * 32) << shift) / 1e6;
  }
  void clear() {
    for (auto& count : counts_) count = 0;
  }

 private:
  std::array<std::atomic<std::uint64_t>, 60 * 32> counts_{};
};

// When each token was emitted, by CLOCK_MONOTONIC: one for all processes of the machine, and so is
// this table for those that are forked off.
class Emissions {
 public:
  Emissions(std::size_t places, std::uint32_t length)
      : places_(places), length_(length), bytes_(places * length * sizeof(std::int64_t)) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    times_ = static_cast<std::int64_t*>(memory);
  }
  ~Emissions() { munmap(times_, bytes_); }
  Emissions(const Emissions&) = delete;
  Emissions& operator=(const Emissions&) = delete;

  std::int64_t& at(std::uint64_t stream, std::uint32_t position) {
    return times_[stream % places_ * length_ + position];
  }
  std::size_t bytes() const { return bytes_; }

 private:
  const std::size_t places_;
  const std::uint32_t length_;
  const std::size_t bytes_;
  std::int64_t* times_ = nullptr;
};

// What every stream of a run tells, and what is known of it beside the messages.
struct Tally {
  Tally(std::size_t places, std::uint32_t length) : emissions(places, length) {}

  // Tokens came: the streams' own counts say that each is the next one.
  void took(std::uint64_t stream, std::uint32_t position, std::uint32_t count) {
    const auto now = now_ns();
    if (measuring) {
      for (std::uint32_t i = 0; i < count; ++i) {
        latency.add(now - emissions.at(stream, position + i));
      }
    }
    tokens.fetch_add(count, std::memory_order_relaxed);
  }

  Emissions emissions;
  std::atomic<bool> measuring{false};
  Histogram latency;
  std::atomic<std::uint64_t> tokens{0};
  std::atomic<std::uint64_t> wrong{0};  // tokens that were not the next one of their stream
  std::atomic<std::uint64_t> ended{0}, failed{0}, short_of{0};
};

// What every stream of the bench asks for; its seed is its number.
inline const std::vector<TokenId> prompt(32, 'p');
inline const std::uint64_t prompt_hash = pretend::prompt_hash(prompt);

// One stream as its reader sees it.
struct Reading {
  Tally* tally;
  std::uint64_t stream;
  std::uint32_t length;
  std::uint32_t position = 0;

  void take(TokenId id) {
    if (id != pretend::token_at(prompt_hash, stream, position)) ++tally->wrong;
    ++position;
  }
  void end(bool whole) {
    if (!whole) ++tally->failed;
    if (whole && position != length) ++tally->short_of;
    ++tally->ended;
  }
};

}  // namespace plimsoll::router_bench
