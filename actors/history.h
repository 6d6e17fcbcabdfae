// The last hour of a process, as its console draws it: memory by owner, pressure and load, every
// few seconds. Bounded, and charged to the ledger.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "actors/cache_calls.h"
#include "actors/console.h"
#include "actors/frontend.h"
#include "engine/memory/headroom.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// Of all nodes' caches on disk, since each node's start.
struct CacheLookups {
  std::uint64_t hits = 0, misses = 0;
};
// What is read at one moment. `point` has all but its id and its rates.
struct HistorySample {
  HistoryPoint point;
  std::uint64_t tokens_total = 0;  // of all engines: prompts that were computed, and generated
  std::array<CacheLookups, storage::cache_kind_count> lookups{};  // by kind
};
HistorySample take_sample(double unix_seconds, const ClusterStatus& status,
                          const Result<MemoryReport>& memory,
                          const std::vector<MemoryScope>& scopes,
                          const std::vector<NodeCacheAnswer>& caches = {});

// Thread-safe.
class History {
 public:
  static constexpr std::size_t most_tenants = 16;  // of a point; the others are summed up

  explicit History(Ledger& ledger, std::size_t capacity = 720);

  void add(HistorySample sample);
  // Those with an id over `after`, the oldest first.
  std::vector<HistoryPoint> after(std::uint64_t after) const;

 private:
  mutable std::mutex mutex_;
  const std::size_t capacity_;
  std::uint64_t last_id_ = 0;
  std::uint64_t tokens_total_ = 0;
  std::array<CacheLookups, storage::cache_kind_count> lookups_{};
  std::deque<HistoryPoint> points_;
  std::uint64_t bytes_ = 0;
  Charge charge_;
};

// Calls `sample` once each interval, on a thread of its own, until it is destroyed.
class HistoryThread {
 public:
  HistoryThread(std::chrono::milliseconds interval, std::function<void()> sample);
  ~HistoryThread();
  HistoryThread(const HistoryThread&) = delete;
  HistoryThread& operator=(const HistoryThread&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace plimsoll
