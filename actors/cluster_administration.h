// The Administration of a process that has a router. What would have to outlive the process
// (tenants, join tokens, placements) comes from the configuration and cannot be changed here.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "actors/administration.h"
#include "actors/board.h"
#include "actors/messages.h"

namespace plimsoll {

class ClusterAdministration final : public Administration {
 public:
  ClusterAdministration(RouterActor router, std::shared_ptr<Board> board, std::string name,
                        std::vector<cluster::Tenant> tenants);
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
  Result<void> suspend(const std::string& tenant, bool on) override;
  Result<std::string> rotate_key(const std::string& tenant, std::chrono::seconds grace) override;
  // Since this process started.
  Result<std::map<std::string, cluster::Usage>> usage() override;

  Result<std::vector<ModelView>> models() override;
  Result<void> load_model(const std::string& name, const std::string& source,
                          const std::vector<std::string>& nodes) override;
  Result<void> unload_model(const std::string& name) override;
  Result<void> place_model(const std::string& name, const std::vector<std::string>& nodes) override;

 private:
  // Runs in the router actor. Errors: unavailable, if it does not answer.
  Result<void> in_router(
      std::function<void(cluster::Router&, cluster::Time, cluster::Actions&)> run);

  const RouterActor router_;
  const std::shared_ptr<Board> board_;
  const std::string name_;
  const std::vector<cluster::Tenant> tenants_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::atomic<bool> stopping_{false};
  std::mutex usage_mutex_;
  std::map<std::string, cluster::Usage> usage_;
};

}  // namespace plimsoll
