// A state store of one process: revisions, compare-and-swap, leases and watches over a table that
// knows only how to read and to apply a batch. The table is a map (memory_store.cc) or RocksDB
// (embedded_store.cc).
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "storage/state_store.h"

namespace plimsoll::storage {

struct TableEntry {
  StateEntry entry;
  LeaseId lease = 0;
};
// Applied as a whole or not at all.
struct TableBatch {
  std::uint64_t revision = 0;  // of the store, afterwards
  std::vector<TableEntry> puts;
  std::vector<std::string> removals;
  std::map<LeaseId, std::chrono::milliseconds> granted;
  std::vector<LeaseId> ended;
};

class Table {
 public:
  virtual ~Table() = default;
  virtual Result<std::optional<TableEntry>> get(const std::string& key) = 0;
  virtual Result<std::vector<TableEntry>> list(const std::string& prefix) = 0;
  // When it returns, the batch outlives the process, where the table does at all.
  virtual Result<void> apply(const TableBatch& batch) = 0;
  // What was last applied, on opening.
  virtual std::uint64_t revision() = 0;
  virtual Result<std::map<LeaseId, std::chrono::milliseconds>> leases() = 0;
};

class LocalStore final : public StateStore {
 public:
  // Leases of before go on with their whole time to live: their holders had no way to renew.
  static Result<std::unique_ptr<StateStore>> open(std::unique_ptr<Table> table);
  ~LocalStore() override;

  Result<std::optional<StateEntry>> get(const std::string& key) override;
  Result<std::vector<StateEntry>> list(const std::string& prefix) override;
  Result<std::uint64_t> put(const std::string& key, const std::string& value,
                            std::optional<std::uint64_t> expected, LeaseId lease) override;
  Result<void> remove(const std::string& key, std::optional<std::uint64_t> expected) override;
  Result<LeaseId> grant(std::chrono::milliseconds ttl) override;
  Result<void> keep_alive(LeaseId lease) override;
  Result<void> revoke(LeaseId lease) override;
  std::unique_ptr<Watch> watch(const std::string& prefix, WatchCallback callback) override;

 private:
  class LocalWatch;
  using Clock = std::chrono::steady_clock;
  struct Lease {
    std::chrono::milliseconds ttl{};
    Clock::time_point end;
    std::set<std::string> keys;
  };

  explicit LocalStore(std::unique_ptr<Table> table) : table_(std::move(table)) {}
  Result<void> load();
  // With mutex_ held. Applies the batch at the next revision and tells the watches of it.
  Result<void> commit(TableBatch& batch);
  Result<void> end_lease(LeaseId id);
  void run_leases(std::stop_token stop);

  std::mutex mutex_;
  std::unique_ptr<Table> table_;
  std::uint64_t revision_ = 0;
  std::map<LeaseId, Lease> leases_;
  LeaseId last_granted_ = 0;
  std::set<LocalWatch*> watches_;
  std::condition_variable_any lease_granted_;
  std::jthread lease_thread_;
};

}  // namespace plimsoll::storage
