// The state of a cluster that keeps none: gone with the process.
#include <utility>

#include "storage/local_store.h"

namespace plimsoll::storage {
namespace {

class MemoryTable final : public Table {
 public:
  Result<std::optional<TableEntry>> get(const std::string& key) override {
    const auto found = entries_.find(key);
    if (found == entries_.end()) return std::nullopt;
    return found->second;
  }

  Result<std::vector<TableEntry>> list(const std::string& prefix) override {
    std::vector<TableEntry> out;
    for (auto it = entries_.lower_bound(prefix); it != entries_.end(); ++it) {
      if (!it->first.starts_with(prefix)) break;
      out.push_back(it->second);
    }
    return out;
  }

  Result<void> apply(const TableBatch& batch) override {
    for (const auto& put : batch.puts) entries_[put.entry.key] = put;
    for (const auto& key : batch.removals) entries_.erase(key);
    return {};
  }

  std::uint64_t revision() override { return 0; }
  Result<std::map<LeaseId, std::chrono::milliseconds>> leases() override {
    return std::map<LeaseId, std::chrono::milliseconds>{};
  }

 private:
  std::map<std::string, TableEntry> entries_;
};

}  // namespace

std::unique_ptr<StateStore> make_memory_store() {
  return std::move(*LocalStore::open(std::make_unique<MemoryTable>()));
}

}  // namespace plimsoll::storage
