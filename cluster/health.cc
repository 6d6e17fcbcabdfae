#include "cluster/health.h"

#include <algorithm>
#include <cstdio>

namespace plimsoll::cluster {
namespace {

constexpr double fresh_weight = 0.2;       // of a new sample in the averages
constexpr std::uint32_t stale_beats = 50;  // without a sample an average is forgotten

// The lower one of two: of two nodes, the faster is the measure.
double lower_median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace

void Health::join(const std::string& node, Time now) {
  Node& fresh = nodes_[node] = Node();
  fresh.heard = fresh.progress = now;
}

void Health::leave(const std::string& node) { nodes_.erase(node); }

void Health::beat(const std::string& node, const Beat& beat, Time now) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return;
  Node& known = it->second;
  known.heard = now;
  const bool had_nothing = known.sequences == 0;
  if (beat.steps != known.steps || had_nothing) known.progress = now;
  known.steps = beat.steps;
  known.sequences = beat.sequences;
  for (Average& average : known.averages) {
    if (++average.age > stale_beats) average.known = false;  // it may be well again: try it
  }
  if (beat.round_trip_s > 0) sample(known, round_trip, beat.round_trip_s);
}

void Health::heard(const std::string& node, Time now) {
  const auto it = nodes_.find(node);
  if (it != nodes_.end()) it->second.heard = now;
}

void Health::latency(const std::string& node, double seconds) {
  const auto it = nodes_.find(node);
  if (it != nodes_.end()) sample(it->second, first_token, seconds);
}

void Health::sample(Node& node, Signal signal, double seconds) {
  Average& average = node.averages[signal];
  average.seconds =
      average.known ? average.seconds + fresh_weight * (seconds - average.seconds) : seconds;
  average.known = true;
  average.age = 0;
  // Medians over all nodes, at a bounded cost for each sample.
  if (++samples_[signal] * 8 < nodes_.size()) return;
  samples_[signal] = 0;
  std::vector<double> values;
  for (const auto& [name, other] : nodes_) {
    if (other.averages[signal].known) values.push_back(other.averages[signal].seconds);
  }
  const double median = lower_median(values);
  for (double& value : values) value = std::abs(value - median);
  const double deviation = 1.4826 * lower_median(values);  // as of a normal distribution
  limits_[signal] = median + std::max(config_.slow_floor_s, config_.slow_mads * deviation);
}

std::vector<Health::Verdict> Health::dead(Time now) const {
  std::vector<Verdict> out;
  for (const auto& [name, node] : nodes_) {
    char reason[96];
    if (now - node.heard > config_.timeout) {
      std::snprintf(reason, sizeof(reason), "no heartbeat for %.1f s", (now - node.heard).count());
    } else if (node.sequences > 0 && now - node.progress > config_.stuck) {
      std::snprintf(reason, sizeof(reason), "holds %u sequences and did no step for %.0f s",
                    node.sequences, (now - node.progress).count());
    } else {
      continue;
    }
    out.push_back({name, reason});
  }
  return out;
}

double Health::factor(const std::string& node) const {
  const auto it = nodes_.find(node);
  double factor = 1;
  if (it == nodes_.end()) return factor;
  for (const Signal signal : {first_token, round_trip}) {
    const Average& average = it->second.averages[signal];
    if (average.known && average.seconds > limits_[signal]) {
      factor = std::min(factor, limits_[signal] / average.seconds);
    }
  }
  return std::max(factor, config_.slow_weight);
}

std::optional<Time> Health::last_heard(const std::string& node) const {
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? std::nullopt : std::optional(it->second.heard);
}

}  // namespace plimsoll::cluster
