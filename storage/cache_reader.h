// Reads from the cache on disk for threads that must not wait for a disk: on a thread of its own,
// one value after another, in the order in which they were asked for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"
#include "storage/tier_budget.h"

namespace plimsoll::storage {

class CacheReader;

// Values that were asked for. To destroy it is to want them no longer. The reader outlives it.
class CacheFetch {
 public:
  ~CacheFetch();
  CacheFetch(const CacheFetch&) = delete;
  CacheFetch& operator=(const CacheFetch&) = delete;

  std::size_t size() const { return size_; }  // 1 or more
  // That it is expected to take: behind what waits already, and no sooner than the read that is
  // under way, which may be stuck.
  double read_seconds() const;
  // Once; `on_done` is called on the reader's thread, never after the destruction of this.
  void start(std::function<void()> on_done);
  bool done() const;
  // What has come so far, in order; nothing comes any more. Empty: that one is not to be had.
  std::vector<std::string> take();

 private:
  friend class CacheReader;
  struct State;
  CacheFetch(CacheReader& reader, std::shared_ptr<State> state);

  CacheReader& reader_;
  const std::shared_ptr<State> state_;
  const std::size_t size_;
};

struct CacheReaderOptions {
  CacheKind kind = CacheKind::prefix;
  std::uint64_t value_bytes = 0;  // of each; one of another size is as good as none. 0: any
  bool to_first_gap = false;      // what comes behind a value that is not there is worth nothing
  std::string thread_name;        // 15 characters at most
};

class CacheReader {
 public:
  CacheReader(std::shared_ptr<DiskCache> cache, CacheReaderOptions options,
              std::shared_ptr<TierBudget> budget);
  ~CacheReader();  // what waits is not read

  // The values of the first of these keys, as many as the budget has room for, which are charged to
  // the account while the fetch lives. `most_bytes`: of a value, where they are of any size. Null:
  // it has room for none.
  std::unique_ptr<CacheFetch> fetch(CacheOwner owner, std::vector<std::string> keys,
                                    Account& account, std::uint64_t most_bytes = 0);

 private:
  friend class CacheFetch;
  using Clock = std::chrono::steady_clock;
  using State = CacheFetch::State;

  bool good(const std::string& value, const State& state) const;
  void start(std::shared_ptr<State> state);
  double seconds(const State& state) const;
  void run();
  void read(std::unique_lock<std::mutex>& lock, State& state);

  const std::shared_ptr<DiskCache> cache_;
  const CacheReaderOptions options_;
  const std::shared_ptr<TierBudget> budget_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<State>> waiting_;
  std::optional<Clock::time_point> reading_since_;  // the read that is under way
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace plimsoll::storage
