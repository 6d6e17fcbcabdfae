// The durable records of a cluster, typed: tenants and their keys, nodes that may join, usage,
// placements of models. A view in memory, kept up to date by the store's watch, answers reads at
// once; changes go to the store by compare-and-swap and block.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/lease.h"
#include "cluster/tenant.h"
#include "engine/base/result.h"
#include "storage/state_store.h"

namespace plimsoll {

// A node that was admitted. What an operator wants of it is kept; whether it is alive is not.
struct NodeRecord {
  std::string name;
  std::string secret_sha256;  // of what it proves itself with when it comes back
  bool cordoned = false;
  std::uint64_t joined_s = 0;
  std::uint64_t drain_until_ms = 0;  // Unix time; 0: it does not drain
  bool operator==(const NodeRecord&) const = default;
};
// What was added to the configuration at run time: a model, and the nodes that shall serve it.
struct ModelPlacement {
  std::string model;
  std::string source;              // as a configuration names it: PATH, or a catalogue's NAME
  std::vector<std::string> nodes;  // empty: all
  bool operator==(const ModelPlacement&) const = default;
};
// A router that is alive, as the others see it.
struct RouterRecord {
  std::string name;
  std::string address;  // of its RPC gateway
  std::string software;
  std::uint32_t streams = 0;
  double tokens_per_second = 0;
  bool operator==(const RouterRecord&) const = default;
};

class Directory {
 public:
  // Reads everything, then watches. `router` names this router's own records (usage).
  static Result<std::unique_ptr<Directory>> open(std::shared_ptr<storage::StateStore> store,
                                                 std::string router);
  ~Directory();

  // ---- tenants
  std::vector<cluster::Tenant> tenants() const;
  std::optional<cluster::Tenant> tenant(const std::string& name) const;
  // Whom a key stands for. Constant time over the keys' bytes; expired keys do not count.
  std::optional<cluster::Tenant> find_key(std::string_view api_key, std::uint64_t now_s) const;
  // Makes or changes one by `change`, called again after a conflict. Errors: invalid_argument
  // (name, quota), already_exists, not_found, unavailable.
  Result<void> create_tenant(cluster::Tenant tenant);
  // Brings a tenant to what a configuration says of it, where that is new or has changed since it
  // was last brought to it; what was changed at run time holds until then. Keys with created_s 0
  // are the configuration's: they are replaced, others stay.
  Result<void> declare_tenant(cluster::Tenant tenant);
  Result<cluster::Tenant> change_tenant(
      const std::string& name, const std::function<Result<void>(cluster::Tenant&)>& change);
  Result<void> remove_tenant(const std::string& name);
  // A fresh key "pl-..." for the tenant, said once; the older ones stay valid for `grace`.
  Result<std::string> rotate_key(const std::string& name, std::uint64_t now_s,
                                 std::uint64_t grace_s);

  // ---- nodes
  // A single-use token "plj-..." that lets one node join before it expires.
  Result<std::string> create_join_token(std::uint64_t now_s, std::uint64_t ttl_s);
  struct JoinTokenInfo {
    std::string id;  // its first characters: not enough to use it
    std::uint64_t expires_s = 0;
  };
  Result<std::vector<JoinTokenInfo>> join_tokens() const;
  Result<void> revoke_join_token(const std::string& id);
  // Spends the token and makes the node's record; returns the secret with which it comes back.
  // Errors: permission_denied (unknown, spent or expired token), already_exists (another node of
  // this name joined: remove it first).
  Result<std::string> admit_node(const std::string& node, const std::string& token,
                                 std::uint64_t now_s);
  // The same without a token, for a cluster that lets in whoever can reach it. A node that is known
  // gets a new secret and keeps the rest of its record.
  Result<std::string> welcome_node(const std::string& node, std::uint64_t now_s);
  bool check_node(const std::string& node, std::string_view secret) const;
  std::vector<NodeRecord> nodes() const;
  Result<void> set_cordoned(const std::string& node, bool cordoned);
  Result<void> set_drain(const std::string& node, std::uint64_t until_ms);
  Result<void> remove_node(const std::string& node);  // its secret is void

  // ---- routers
  // Takes this router's name, then, called again within router_ttl, keeps it, with what is to be
  // shown of it; takes it again where it was lost meanwhile. Writes only what changed. Errors:
  // already_exists (another router that is alive has the name, or one of this name crashed less
  // than router_ttl ago), unavailable.
  // Only for a store that routers share: one of a single process gives leases their whole time anew
  // when it is opened, so that a router would be kept from its own name after each restart.
  static constexpr std::chrono::seconds router_ttl{6};
  Result<void> announce_router(const RouterRecord& own);
  void retire_router();  // gives the name back
  Result<std::vector<RouterRecord>> routers() const;

  // ---- models
  std::vector<ModelPlacement> placements() const;
  Result<void> place(const ModelPlacement& placement);
  Result<void> unplace(const std::string& model);

  // ---- usage: each router writes its own part; the sum is over all routers, past ones too.
  Result<void> save_usage(const std::map<std::string, cluster::Usage>& own);
  std::map<std::string, cluster::Usage> own_usage() const;  // as last saved by this router's name
  Result<std::map<std::string, cluster::Usage>> usage() const;

  // ---- quota leases (several routers)
  // What this router may use of the tenant's quota from now on: cluster::renew().
  Result<cluster::Granted> renew_lease(const std::string& tenant, double demand, double in_use,
                                       std::uint64_t now_ms,
                                       const cluster::LeaseConfig& config = {});

  // Called on a thread of the store after a tenant, node or placement changed, by whomever; it sees
  // the change. Must not block, and may call all that reads the view. A call that runs when the
  // callback is replaced is waited for.
  void on_change(std::function<void()> callback);

 private:
  struct Impl;
  explicit Directory(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace plimsoll
