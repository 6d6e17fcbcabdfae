// What a gateway may ask at any moment, without waiting for an actor: the actors write it, any
// thread reads it.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "actors/frontend.h"
#include "cluster/event_log.h"
#include "engine/memory/phases.h"

namespace plimsoll {

class Board {
 public:
  explicit Board(std::string name = "local") : name_(std::move(name)) {}
  const std::string& name() const { return name_; }  // of this process, among the nodes

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
  // One sample a second of this process's anonymous memory, on a steady clock.
  void sample_memory(double seconds, std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    recorder_.sample(seconds, bytes);
  }
  std::optional<MemoryPhases> phases() const {  // none where nobody samples
    const std::lock_guard lock(mutex_);
    const auto phases = recorder_.phases();
    return phases == MemoryPhases() ? std::nullopt : std::optional(phases);
  }
  // What the other nodes last said, until they have been silent for a minute.
  void set_memory(const std::string& node, std::shared_ptr<const MemoryReport> report,
                  std::uint32_t routers) {
    const std::lock_guard lock(mutex_);
    memory_[node] = {std::chrono::steady_clock::now(), routers, std::move(report)};
    std::erase_if(memory_, [](const auto& entry) { return entry.second.age_s() > 60; });
  }
  std::vector<NodeMemory> memory() const {
    const std::lock_guard lock(mutex_);
    std::vector<NodeMemory> out;
    for (const auto& [node, said] : memory_) {
      if (said.age_s() <= 60) out.push_back({node, said.age_s(), said.routers, said.report});
    }
    return out;
  }
  void set_pressure(PressureLevel level, std::uint64_t used_bytes = 0,
                    std::uint64_t limit_bytes = 0) {
    pressure_ = level;
    used_bytes_ = used_bytes;
    limit_bytes_ = limit_bytes;
  }
  PressureLevel pressure() const { return pressure_; }

  // Of this process and of the nodes that report to it.
  cluster::EventLog& events() { return events_; }
  const cluster::EventLog& events() const { return events_; }
  // One of now, here, under the pressure that there is; not added yet.
  cluster::Event event(cluster::EventKind kind, std::string cause) const {
    cluster::Event event;
    event.unix_seconds =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    event.node = name_;
    event.kind = kind;
    event.level = static_cast<cluster::Level>(pressure());
    event.cause = std::move(cause);
    event.used_bytes = used_bytes_;
    event.limit_bytes = limit_bytes_;
    return event;
  }

 private:
  struct Said {
    std::chrono::steady_clock::time_point at;
    std::uint32_t routers = 1;
    std::shared_ptr<const MemoryReport> report;
    double age_s() const {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - at).count();
    }
  };

  const std::string name_;
  cluster::EventLog events_;
  mutable std::mutex mutex_;
  std::vector<NodeStatus> nodes_;
  std::vector<ModelCard> models_;  // that are ready
  Growth growth_;
  PhaseRecorder recorder_;
  std::map<std::string, Said> memory_;  // by node
  std::atomic<PressureLevel> pressure_{PressureLevel::green};
  std::atomic<std::uint64_t> used_bytes_ = 0;
  std::atomic<std::uint64_t> limit_bytes_ = 0;
};

}  // namespace plimsoll
