// The governor: several times a second, folds what is used under each memory limit into a pressure
// level, tells the node what to free, and writes down why. A thread of its own, which a stall of
// this process's cgroup wakes early.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "actors/board.h"
#include "actors/messages.h"
#include "cluster/growth.h"
#include "cluster/pressure.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

struct AnonymousMemory {
  std::uint64_t bytes = 0;     // of this process
  std::uint64_t kv_bytes = 0;  // of these, in KV pools, which are bounded
};

struct GovernorConfig {
  std::function<Result<cluster::PressureSample>()> sample;
  std::function<std::optional<AnonymousMemory>()> anonymous;  // absent: growth is not watched
  std::shared_ptr<Board> board;
  NodeActor node;
  std::chrono::milliseconds interval{250};  // a quarter of it while there is pressure
  std::chrono::milliseconds growth_interval{1000};
  cluster::PressureConfig pressure{};
  cluster::GrowthConfig growth{};
};

class Governor {
 public:
  explicit Governor(GovernorConfig config);
  ~Governor();  // joins the thread
  Governor(const Governor&) = delete;
  Governor& operator=(const Governor&) = delete;

 private:
  void run();
  // What to tell the node, if the memory could be read.
  std::optional<SetPressure> step();
  void watch_growth(const cluster::PressureSample& sample, const cluster::PressureStep& step);
  void watch_kills();

  GovernorConfig config_;
  cluster::PressureState pressure_;
  cluster::GrowthState growth_;
  SetPressure told_;
  double growth_at_ = 0;
  std::optional<std::uint64_t> oom_kills_;
  bool failing_ = false;
  int stop_ = -1;  // an eventfd
  std::thread thread_;
};

// A sampler of this process. `limit_bytes` 0: only the cgroup's limits and the machine's hold.
// `planned_bytes` says what the plan lets it come to; 0 and none: it has no plan.
std::function<Result<cluster::PressureSample>()> process_sampler(
    std::uint64_t limit_bytes, std::function<std::uint64_t()> planned_bytes = {});

std::function<std::optional<AnonymousMemory>()> anonymous_sampler(const Ledger& ledger);

}  // namespace plimsoll
