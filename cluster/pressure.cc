#include "cluster/pressure.h"

#include <algorithm>
#include <cmath>

namespace plimsoll::cluster {
namespace {

// The highest rung whose threshold `value` reaches; `current` and the rungs below it are held down
// to `keep(threshold)`.
template <class Keep>
int rung(double value, const double (&thresholds)[3], int current, Keep keep) {
  for (int level = 3; level > 0; --level) {
    const double threshold = thresholds[level - 1];
    if (value >= (level <= current ? keep(threshold) : threshold)) return level;
  }
  return 0;
}

}  // namespace

PressureStep fold(const PressureConfig& config, const PressureState& state,
                  const PressureSample& sample) {
  PressureStep step{.state = state};
  PressureState& next = step.state;
  if (state.last && sample.seconds > state.last->seconds) {
    const double elapsed = sample.seconds - state.last->seconds;
    const double rate =
        (static_cast<double>(sample.used_bytes) - static_cast<double>(state.last->used_bytes)) /
        elapsed;
    const double weight = 1 - std::exp(-elapsed / config.growth_seconds);
    next.growth_bytes_per_second += weight * (rate - state.growth_bytes_per_second);
  }
  next.last = sample;

  const int current = static_cast<int>(state.level);
  int used = 0, growth = 0, stalls = 0;
  if (sample.limit_bytes > 0) {
    const double limit = static_cast<double>(sample.limit_bytes);
    step.used_share = static_cast<double>(sample.used_bytes) / limit;
    step.projected_share = step.used_share + std::max(0.0, next.growth_bytes_per_second) *
                                                 config.horizon_seconds / limit;
    const auto keep = [&](double threshold) { return threshold - config.used_slack; };
    used = rung(step.used_share, config.used_share, current, keep);
    growth = std::min(2, rung(step.projected_share, config.used_share, current, keep));
  }
  const auto half = [](double threshold) { return threshold / 2; };
  if (sample.some_avg10) stalls = rung(*sample.some_avg10, config.some_percent, current, half);
  if (sample.full_avg10) {
    stalls = std::max(stalls, rung(*sample.full_avg10, config.full_percent, current, half));
  }

  const int wanted = std::max({used, growth, stalls});
  if (wanted > 0) step.cause = used == wanted ? "used" : stalls == wanted ? "stalls" : "growth";
  if (wanted >= current) {
    next.level = static_cast<Level>(wanted);
    next.calm = 0;
  } else if (++next.calm >= config.calm_samples) {
    next.level = static_cast<Level>(current - 1);
    next.calm = 0;
  }
  return step;
}

}  // namespace plimsoll::cluster
