// The governor actor: once a second, folds this process's memory into a pressure level and tells
// the node. On a thread of its own, because it reads files.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "actors/board.h"
#include "actors/messages.h"
#include "cluster/pressure.h"
#include "engine/base/result.h"

namespace plimsoll {

struct GovernorConfig {
  std::function<Result<cluster::PressureSample>()> sample;
  std::shared_ptr<Board> board;
  NodeActor node;
  std::chrono::milliseconds interval{1000};
  cluster::PressureConfig pressure{};
};
GovernorActor spawn_governor(caf::actor_system& system, GovernorConfig config);

// A sampler of this process. `limit_bytes` 0: the cgroup's limit, or else the machine's memory.
std::function<Result<cluster::PressureSample>()> process_sampler(std::uint64_t limit_bytes);

}  // namespace plimsoll
