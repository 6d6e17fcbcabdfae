// What a gateway may ask at any moment, without waiting for an actor: the actors write it, any
// thread reads it.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "actors/frontend.h"
#include "cluster/event_log.h"

namespace plimsoll {

class Board {
 public:
  void set_nodes(std::vector<NodeStatus> nodes) {
    const std::lock_guard lock(mutex_);
    nodes_ = std::move(nodes);
  }
  std::vector<NodeStatus> nodes() const {
    const std::lock_guard lock(mutex_);
    return nodes_;
  }
  void set_models(std::vector<ModelCard> models) {
    const std::lock_guard lock(mutex_);
    models_ = std::move(models);
  }
  std::vector<ModelCard> models() const {
    const std::lock_guard lock(mutex_);
    return models_;
  }
  // As the governor last saw it.
  struct Growth {
    double bytes_per_second = 0;         // outside KV, over the last minute
    std::optional<double> alarm_left_s;  // to the limit; only while the growth alarm is up
    std::optional<double> limit_left_s;  // of all memory, at the rate of the last seconds
  };
  void set_growth(const Growth& growth) {
    const std::lock_guard lock(mutex_);
    growth_ = growth;
  }
  Growth growth() const {
    const std::lock_guard lock(mutex_);
    return growth_;
  }
  void set_pressure(PressureLevel level) { pressure_ = level; }
  PressureLevel pressure() const { return pressure_; }

  // Of this process and of the nodes that report to it.
  cluster::EventLog& events() { return events_; }
  const cluster::EventLog& events() const { return events_; }

 private:
  cluster::EventLog events_;
  mutable std::mutex mutex_;
  std::vector<NodeStatus> nodes_;
  std::vector<ModelCard> models_;  // that are ready
  Growth growth_;
  std::atomic<PressureLevel> pressure_{PressureLevel::green};
};

}  // namespace plimsoll
