// The Administration of a process that has a router: what lasts is changed in the directory, what
// is done at once in the router actor.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "actors/administration.h"
#include "actors/board.h"
#include "actors/directory.h"
#include "actors/messages.h"
#include "actors/placed_models.h"
#include "actors/record_keeper.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// What it works on; all outlives it.
struct AdministrationServices {
  Directory& directory;
  RecordKeeper& keeper;
  PlacedModels& models;
  const Board& board;
  const Ledger& ledger;
  RouterActor router;
  RouterView self;      // its name and address
  std::string store;    // "memory", "embedded", "etcd"
  bool shared = false;  // with other routers
};

class ClusterAdministration final : public Administration {
 public:
  explicit ClusterAdministration(AdministrationServices services)
      : services_(std::move(services)) {}
  void stop() { stopping_ = true; }  // ends a drain that is waited for

  ClusterView cluster() override;
  Result<void> cordon(const std::string& node, bool on) override;
  Result<Drained> drain(const std::string& node, std::chrono::milliseconds deadline) override;
  Result<void> remove(const std::string& node, bool force) override;
  Result<std::vector<Move>> rebalance(bool dry_run) override;

  Result<std::string> create_join_token(std::chrono::seconds ttl) override;
  Result<std::vector<JoinTokenView>> join_tokens() override;
  Result<void> revoke_join_token(const std::string& id) override;

  Result<std::vector<TenantView>> tenants() override;
  Result<TenantView> tenant(const std::string& name) override;
  Result<std::string> create_tenant(const cluster::Tenant& tenant) override;
  Result<void> set_quota(const std::string& tenant, const cluster::Quota& quota) override;
  Result<void> set_tier(const std::string& tenant, cluster::Tier tier) override;
  Result<void> set_no_store(const std::string& tenant, bool on) override;
  Result<void> suspend(const std::string& tenant, bool on) override;
  Result<std::string> rotate_key(const std::string& tenant, std::chrono::seconds grace) override;
  Result<std::map<std::string, cluster::Usage>> usage() override;

  Result<void> set_cache_quota(const std::string& tenant,
                               std::optional<std::uint64_t> bytes) override;
  Result<void> set_cache_ttl(const std::string& tenant, storage::CacheKind kind,
                             std::optional<std::chrono::milliseconds> ttl) override;
  Result<std::vector<NodeCacheAnswer>> ask_caches(const CacheCall& call,
                                                  const std::string& node) override;

  Result<std::vector<ModelView>> models() override;
  Result<void> load_model(const std::string& name, const std::string& source,
                          const std::vector<std::string>& nodes) override;
  Result<void> unload_model(const std::string& name) override;
  Result<void> place_model(const std::string& name, const std::vector<std::string>& nodes) override;

  std::vector<cluster::Event> events(const cluster::EventLog::Query& query) override {
    return services_.board.events().find(query);
  }

 private:
  bool is_recorded(const std::string& node) const;
  Result<void> change_tenant(const std::string& name,
                             const std::function<void(cluster::Tenant&)>& change);
  Result<std::vector<TenantView>> views(const std::vector<cluster::Tenant>& tenants);
  std::vector<NodeCacheAnswer> ask_each(const CacheCall& call,
                                        const std::vector<std::string>& nodes) const;
  Result<ModelPlacement> placement(const std::string& model) const;
  Result<void> check_nodes(const std::vector<std::string>& nodes) const;

  const AdministrationServices services_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::atomic<bool> stopping_{false};
};

}  // namespace plimsoll
