// What the operator's console shows: the last hour of a process, its nodes as they are, and what
// the memory governor did.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cluster/event.h"
#include "engine/loop/engine.h"
#include "engine/memory/ledger.h"
#include "storage/cache_record.h"

namespace plimsoll {

inline constexpr std::chrono::seconds history_interval{5};

struct HistoryPoint {
  std::uint64_t id = 0;  // 1, 2, ...
  double unix_seconds = 0;
  PressureLevel pressure = PressureLevel::green;
  // Of the limit that is nearest, without what the kernel can take back.
  std::uint64_t used_bytes = 0, limit_bytes = 0;
  std::optional<double> stall_percent;     // PSI some avg10 of the process's own group
  std::uint32_t waiting = 0, running = 0;  // sequences, on all nodes
  double tokens_per_second = 0;
  // Of this process, what is in memory: anonymous by component and by tenant, mapped in all.
  std::array<std::uint64_t, component_count> components{};
  std::uint64_t unattributed_bytes = 0;
  std::uint64_t mapped_bytes = 0;
  std::vector<std::pair<std::string, std::uint64_t>> tenants;  // the largest first
  std::uint64_t other_tenants_bytes = 0;
  // On the disks of all nodes that have a cache there: bytes by kind and by tenant, the largest
  // first, and of what was looked for since the point before, the share that was found.
  std::array<std::uint64_t, storage::cache_kind_count> disk_bytes{};
  std::array<std::optional<double>, storage::cache_kind_count> disk_hit_percent{};
  std::vector<std::pair<std::string, std::uint64_t>> disk_tenants;
  std::uint64_t other_disk_tenants_bytes = 0;
};

struct ConsoleQuery {
  std::uint64_t after_point = 0;  // what is newer than that
  std::uint64_t after_event = 0;
};
struct ConsoleView {
  std::vector<HistoryPoint> points;
  std::vector<cluster::Event> events;  // of many, the newest
};

}  // namespace plimsoll
