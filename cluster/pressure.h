// The pressure ladder: one level out of headroom, growth and stalls, with hysteresis.
//
// It climbs at once and comes down a rung at a time, once the figures have been clearly below the
// rung for a few samples: seconds, not minutes.
#pragma once

#include <cstdint>
#include <optional>

namespace plimsoll::cluster {

enum class Level : std::uint8_t { green, yellow, orange, red };

struct PressureSample {
  double seconds = 0;             // since any fixed moment; grows from sample to sample
  std::uint64_t used_bytes = 0;   // what the kernel cannot take back: no clean file cache
  std::uint64_t limit_bytes = 0;  // 0: none is known, and only stalls count
  // PSI of this process's own group, in percent. Absent where only the host's is known, which must
  // not shed for a neighbour's sins.
  std::optional<double> some_avg10;
  std::optional<double> full_avg10;
};

struct PressureConfig {
  // Shares of the limit at which yellow, orange and red begin.
  double used_share[3] = {0.80, 0.88, 0.95};
  double used_slack = 0.04;               // a rung is left that far below where it begins
  double some_percent[3] = {10, 30, 60};  // PSI some avg10; left at half of it
  double full_percent[3] = {2, 8, 20};    // PSI full avg10; left at half of it
  double horizon_seconds = 5;  // growth counts as if it went on that long; never beyond orange
  double growth_seconds = 3;   // over which growth is averaged
  std::uint32_t calm_samples = 3;
};

struct PressureState {
  Level level = Level::green;
  std::uint32_t calm = 0;  // samples in a row that were below the level
  double growth_bytes_per_second = 0;
  std::optional<PressureSample> last;
};

// What the last sample came to, for the log line of a change.
struct PressureStep {
  PressureState state;
  double used_share = 0;       // of the limit; 0 without one
  double projected_share = 0;  // with growth
  const char* cause = "";      // "used", "growth", "stalls": what holds the level up; "" if green
};

PressureStep fold(const PressureConfig& config, const PressureState& state,
                  const PressureSample& sample);

}  // namespace plimsoll::cluster
