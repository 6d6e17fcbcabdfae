// What the directory holds in memory: the records under config/, as the store's watch tells them,
// with this router's own changes at once. Thread-safe; readers wait for no store.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "actors/directory.h"
#include "cluster/tenant.h"
#include "engine/base/result.h"
#include "storage/state_store.h"

namespace plimsoll {

class DirectoryView {
 public:
  static inline const std::string prefix = "config/";
  static inline const std::string tenants_prefix = prefix + "tenants/";
  static inline const std::string nodes_prefix = prefix + "nodes/";
  static inline const std::string placements_prefix = prefix + "placements/";

  // What the watch tells: of all changes, in the order of their revisions.
  void told(const std::vector<storage::StateChange>& changes);
  // Waits for the first of them, which says what is there.
  bool wait_until_told(std::chrono::milliseconds timeout);
  // What is known of the store otherwise, and comes, or came, with the watch too.
  void put(const storage::StateEntry& entry);
  void removed(const std::string& key, std::uint64_t revision);  // of what was there before

  std::vector<cluster::Tenant> tenants() const;
  std::optional<cluster::Tenant> tenant(const std::string& name) const;
  // Constant time over the keys' bytes; expired keys do not count.
  std::optional<cluster::Tenant> find_key(std::string_view api_key, std::uint64_t now_s) const;
  std::vector<NodeRecord> nodes() const;
  bool check_node(const std::string& node, std::string_view secret) const;
  std::vector<ModelPlacement> placements() const;

 private:
  struct Key {
    std::string sha256;
    std::uint64_t expires_s;
    std::string tenant;
  };

  void apply(const storage::StateChange& change);
  template <class Record>
  void apply_to(std::map<std::string, Record>& records, const std::string& name,
                const storage::StateChange& change, Result<Record> (*decode)(std::string_view));
  void forget_keys(const std::string& tenant);
  void index_keys(const std::string& tenant);
  void set_ahead(const std::string& key, std::uint64_t revision);

  mutable std::shared_mutex mutex_;
  std::condition_variable_any first_;
  bool told_any_ = false;
  std::uint64_t told_ = 0;                          // the watch has told all up to this revision
  std::map<std::string, std::uint64_t> revisions_;  // of what is held, by key
  // Of these, what the watch has yet to tell, oldest first.
  std::set<std::pair<std::uint64_t, std::string>> ahead_;
  std::map<std::string, cluster::Tenant> tenants_;
  std::map<std::string, NodeRecord> nodes_;
  std::map<std::string, ModelPlacement> placements_;
  std::unordered_multimap<std::string, Key> keys_;  // by the first half of the hash
};

}  // namespace plimsoll
