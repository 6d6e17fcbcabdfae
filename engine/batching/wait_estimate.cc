#include "engine/batching/wait_estimate.h"

#include <algorithm>
#include <cmath>

namespace plimsoll {

double expected_wait(const Backlog& own, double seconds, std::span<const Backlog> others,
                     const Pace& pace) {
  double ahead_seconds = own.seconds;
  double ahead = own.waiting, weights = own.weight;
  for (const Backlog& other : others) {
    const double share = other.weight / own.weight;
    weights += other.weight;
    ahead_seconds += std::min(other.seconds, (own.seconds + seconds) * share);
    ahead += std::min<double>(other.waiting, (own.waiting + 1) * share);
  }
  const bool place_is_due = (own.running + own.waiting + 1.0) * weights <= own.weight * pace.places;
  const double for_places =
      pace.starts_per_second > 0 && !place_is_due ? ahead / pace.starts_per_second : 0;
  return std::max(ahead_seconds * pace.stretch, for_places);
}

void LatenessBound::observe(double expected_seconds, double seconds) {
  const bool late = seconds > factor_ * expected_seconds;
  factor_ = std::clamp(factor_ * (late ? 1 + step * kept : 1 - step * (1 - kept)), least, most);
}

void StartRate::pass(double seconds, std::uint32_t started) {
  const double kept = std::exp(-seconds / memory_seconds);
  starts_ = starts_ * kept + started;
  seconds_ = seconds_ * kept + seconds;
}

double StartRate::per_second(double expected) const {
  return (starts_ + expected * prior_seconds) / (seconds_ + prior_seconds);
}

}  // namespace plimsoll
