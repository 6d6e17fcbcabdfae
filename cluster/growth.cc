#include "cluster/growth.h"

namespace plimsoll::cluster {

GrowthStep fold(const GrowthConfig& config, GrowthState& state, const GrowthSample& sample,
                std::uint64_t headroom_bytes) {
  auto& window = state.window;
  window.push_back(sample);
  while (sample.seconds - window.front().seconds > config.window_seconds) window.pop_front();
  GrowthStep step;
  if (sample.seconds - window.front().seconds < config.least_seconds) return step;

  // Around the first sample, so that large numbers do not swallow small slopes.
  const auto n = static_cast<double>(window.size());
  double x_sum = 0, y_sum = 0, xx = 0, xy = 0, yy = 0;
  for (const auto& [seconds, bytes] : window) {
    const double x = seconds - window.front().seconds;
    const double y = static_cast<double>(bytes) - static_cast<double>(window.front().bytes);
    x_sum += x;
    y_sum += y;
    xx += x * x;
    xy += x * y;
    yy += y * y;
  }
  const double x_variance = xx - x_sum * x_sum / n;
  const double y_variance = yy - y_sum * y_sum / n;
  const double covariance = xy - x_sum * y_sum / n;
  if (x_variance <= 0 || y_variance <= 0) {
    state.raised = false;
    return step;
  }
  step.bytes_per_second = covariance / x_variance;
  const bool steady = covariance * covariance >= config.steadiness * x_variance * y_variance;
  const double left = step.bytes_per_second > 0
                          ? static_cast<double>(headroom_bytes) / step.bytes_per_second
                          : config.horizon_seconds * 3;
  const bool before = state.raised;
  if (state.raised) {
    state.raised = left <= 2 * config.horizon_seconds;
  } else {
    state.raised = steady && left <= config.horizon_seconds;
  }
  if (state.raised) step.seconds_left = left;
  step.raised = state.raised && !before;
  return step;
}

}  // namespace plimsoll::cluster
