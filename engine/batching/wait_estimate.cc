#include "engine/batching/wait_estimate.h"

#include <algorithm>
#include <cmath>

namespace plimsoll {

double Pace::stretch(double decoding) const {
  if (!cost.known()) return 1;
  const double rows = std::min(decoding, tokens / 2.0);
  const double decode_seconds = rows * (cost.per_token + cost.per_row);
  double prompts = (tokens - rows) * cost.per_token;
  if (rows > 0) prompts = std::min(prompts, cost.prefill_seconds(decode_seconds, step_seconds));
  return (cost.base + decode_seconds + prompts) / prompts;
}

ExpectedWait expected_wait(const Backlog& own, double seconds, std::span<const Backlog> others,
                           const Pace& pace) {
  double ahead_seconds = own.seconds;
  double ahead = own.waiting, weights = own.weight;
  for (const Backlog& other : others) {
    const double share = other.weight / own.weight;
    weights += other.weight;
    ahead_seconds += std::min(other.seconds, (own.seconds + seconds) * share);
    ahead += std::min<double>(other.waiting, (own.waiting + 1) * share);
  }
  // Meanwhile those ahead begin to decode, and of those that run now some end: the pace is the one
  // in the middle. (A queue that grows from nothing would look half as long as it is.)
  const double at_once = ahead_seconds * pace.stretch(pace.running);
  const double ended = pace.life_seconds > 0 ? std::min(1.0, at_once / pace.life_seconds) : 0;
  const double change = ahead - ended * pace.running;
  const auto stretch = [&](double part) {
    return pace.stretch(std::min<double>(pace.places, pace.running + part * change));
  };
  const bool place_is_due = (own.running + own.waiting + 1.0) * weights <= own.weight * pace.places;
  const double for_places =
      pace.starts_per_second > 0 && !place_is_due ? ahead / pace.starts_per_second : 0;
  return {std::max(ahead_seconds * stretch(0.5), for_places), seconds * stretch(1)};
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
