// The phases of a process's memory, told apart: how much it takes to start, what it holds once it
// is warm, what bursts add to that, and whether it grows over the hours.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace plimsoll {

struct MemoryPhases {
  double observed_s = 0;
  std::uint64_t cold_start_peak_bytes = 0;    // until the end of the warm-up
  std::optional<std::uint64_t> steady_bytes;  // median of the minutes since then
  std::optional<std::uint64_t> burst_bytes;   // the highest of them over it
  // Least squares through the minutes; absent before there are ten.
  std::optional<double> growth_bytes_per_second;
  bool operator==(const MemoryPhases&) const = default;
};

// Remembers the last hours by the minute: bounded. Not thread-safe.
class PhaseRecorder {
 public:
  static constexpr double warm_up_s = 120;
  static constexpr std::size_t minutes = 240;

  // Of a steady clock, in order; about one a second.
  void sample(double seconds, std::uint64_t bytes);
  MemoryPhases phases() const;

 private:
  struct Minute {
    double begin = 0;
    double sum = 0;
    std::uint32_t samples = 0;
    std::uint64_t most = 0;
    double mean() const { return sum / samples; }
  };
  std::optional<double> first_;
  double last_ = 0;
  std::uint64_t cold_start_peak_ = 0;
  std::deque<Minute> minutes_;  // since the warm-up; the last one is not over
};

}  // namespace plimsoll
