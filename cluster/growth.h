// An alarm for memory that grows steadily and without a bound of its own: a leak is noticed while
// there is time, not when the limit is near. KV pools are bounded and may fill: what they hold is
// not to be counted in.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace plimsoll::cluster {

struct GrowthConfig {
  double window_seconds = 60;    // that the slope is taken over
  double least_seconds = 20;     // of the window, before it says anything
  double horizon_seconds = 900;  // growth that needs longer to the limit is no alarm
  double steadiness = 0.9;       // share of the variance that a straight line must explain (R2)
};

struct GrowthSample {
  double seconds = 0;
  std::uint64_t bytes = 0;
};

struct GrowthState {
  std::deque<GrowthSample> window;
  bool raised = false;
};

struct GrowthStep {
  double bytes_per_second = 0;         // least squares over the window; 0 while it is too short
  std::optional<double> seconds_left;  // at that slope; only while the alarm is up
  bool raised = false;                 // now, and not before
};

// `headroom_bytes`: until the limit that comes first. Changes `state`. The alarm falls when the
// slope is half of what would raise it.
GrowthStep fold(const GrowthConfig& config, GrowthState& state, const GrowthSample& sample,
                std::uint64_t headroom_bytes);

}  // namespace plimsoll::cluster
