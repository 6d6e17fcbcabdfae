#include "engine/memory/phases.h"

#include <algorithm>
#include <vector>

namespace plimsoll {

void PhaseRecorder::sample(double seconds, std::uint64_t bytes) {
  if (!first_) first_ = seconds;
  last_ = seconds;
  if (seconds - *first_ < warm_up_s) {
    cold_start_peak_ = std::max(cold_start_peak_, bytes);
    return;
  }
  if (minutes_.empty() || seconds - minutes_.back().begin >= 60) {
    minutes_.push_back({seconds, 0, 0, 0});
    if (minutes_.size() > minutes) minutes_.pop_front();
  }
  Minute& minute = minutes_.back();
  minute.sum += static_cast<double>(bytes);
  ++minute.samples;
  minute.most = std::max(minute.most, bytes);
}

MemoryPhases PhaseRecorder::phases() const {
  MemoryPhases out;
  if (!first_) return out;
  out.observed_s = last_ - *first_;
  out.cold_start_peak_bytes = cold_start_peak_;
  if (minutes_.empty()) return out;

  std::vector<double> means;
  std::uint64_t most = 0;
  for (const Minute& minute : minutes_) {
    means.push_back(minute.mean());
    most = std::max(most, minute.most);
  }
  const auto middle = means.begin() + static_cast<std::ptrdiff_t>(means.size() / 2);
  std::ranges::nth_element(means, middle);
  out.steady_bytes = static_cast<std::uint64_t>(*middle);
  out.burst_bytes = most - std::min(most, *out.steady_bytes);

  constexpr std::size_t fewest = 10;
  if (minutes_.size() < fewest) return out;
  // Around the middle of both, so that nothing large is subtracted from something large.
  double time = 0;
  double bytes = 0;
  for (const Minute& minute : minutes_) {
    time += minute.begin;
    bytes += minute.mean();
  }
  time /= static_cast<double>(minutes_.size());
  bytes /= static_cast<double>(minutes_.size());
  double both = 0;
  double square = 0;
  for (const Minute& minute : minutes_) {
    both += (minute.begin - time) * (minute.mean() - bytes);
    square += (minute.begin - time) * (minute.begin - time);
  }
  out.growth_bytes_per_second = both / square;
  return out;
}

}  // namespace plimsoll
