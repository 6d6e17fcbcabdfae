// What an operator may ask of a cluster and do to it. The RPC gateway offers it to keys that have
// the operator's rights; behind it are the directory and the router actor.
//
// Thread-safe. Calls may block for some seconds: they run on a thread that nobody else waits for.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "actors/cache_calls.h"
#include "cluster/event_log.h"
#include "cluster/tenant.h"
#include "engine/base/result.h"
#include "engine/loop/engine.h"

namespace plimsoll {

struct NodeView {
  std::string name;
  std::string state;    // joining, ready, cordoned, draining, lost
  std::string address;  // "local" for the process's own
  std::string version;  // of its software
  std::uint64_t epoch = 0;
  double weight = 1;
  double slow_factor = 1;  // below 1: it is slower than its peers and gets less
  double heartbeat_age_s = 0;
  std::uint32_t sequences = 0;
  double tokens_per_second = 0;
  std::uint64_t memory_used_bytes = 0;
  std::uint64_t memory_limit_bytes = 0;
  PressureLevel pressure = PressureLevel::green;
  std::vector<std::string> models;
};
struct RouterView {
  std::string name;
  std::string address;  // of its RPC gateway
  bool self = false;    // the one that answers
  std::uint32_t streams = 0;
  double tokens_per_second = 0;
};
struct ClusterView {
  std::string version;
  std::string store;  // "embedded", "etcd", "memory"
  std::uint64_t membership_version = 0;
  double uptime_seconds = 0;
  std::vector<RouterView> routers;
  std::vector<NodeView> nodes;
};

struct TenantView {
  cluster::Tenant tenant;
  std::vector<std::string> home;  // its nodes, best first
  std::uint32_t sequences = 0;    // it has now, on this router
  double tokens_per_second = 0;
  std::uint64_t memory_bytes = 0;  // that the ledgers of this router's nodes charge to it
};

struct JoinTokenView {
  std::string id;
  std::uint64_t expires_s = 0;  // Unix time
};

struct ModelView {
  std::string name;
  std::string version;
  std::string source;
  struct Replica {
    std::string node;
    std::string state;  // loading, ready, failed, unloading
    std::string reason;
  };
  std::vector<Replica> replicas;
};

// A tenant whose best node is not the one that now holds most of its sequences.
struct Move {
  std::string tenant;
  std::string from;
  std::string to;
  std::uint32_t sequences = 0;
};

class Administration {
 public:
  virtual ~Administration() = default;

  virtual ClusterView cluster() = 0;
  // Takes nothing new; keeps what it has. Errors: not_found, failed_precondition (its state).
  virtual Result<void> cordon(const std::string& node, bool on) = 0;
  // Moves the node's sequences to others, or lets them end, within the deadline; then it leaves.
  // Returns when the node is empty or the deadline has passed.
  struct Drained {
    std::uint32_t finished = 0;
    std::uint32_t moved = 0;
    std::uint32_t cut = 0;  // ended with a retryable error: no other node could take them
  };
  virtual Result<Drained> drain(const std::string& node, std::chrono::milliseconds deadline) = 0;
  // Forgets a node; a live one is refused (drain it first) unless `force`.
  virtual Result<void> remove(const std::string& node, bool force) = 0;
  virtual Result<std::vector<Move>> rebalance(bool dry_run) = 0;

  virtual Result<std::string> create_join_token(std::chrono::seconds ttl) = 0;
  virtual Result<std::vector<JoinTokenView>> join_tokens() = 0;
  virtual Result<void> revoke_join_token(const std::string& id) = 0;

  virtual Result<std::vector<TenantView>> tenants() = 0;
  virtual Result<TenantView> tenant(const std::string& name) = 0;
  virtual Result<std::string> create_tenant(const cluster::Tenant& tenant) = 0;  // its first key
  virtual Result<void> set_quota(const std::string& tenant, const cluster::Quota& quota) = 0;
  virtual Result<void> set_tier(const std::string& tenant, cluster::Tier tier) = 0;
  // Nothing that is computed for it from now on goes to a cache on disk.
  virtual Result<void> set_no_store(const std::string& tenant, bool on) = 0;
  virtual Result<void> suspend(const std::string& tenant, bool on) = 0;
  virtual Result<std::string> rotate_key(const std::string& tenant, std::chrono::seconds grace) = 0;
  virtual Result<std::map<std::string, cluster::Usage>> usage() = 0;

  // Of its entries in the caches on disk, on each node; absent: as the node is configured.
  virtual Result<void> set_cache_quota(const std::string& tenant,
                                       std::optional<std::uint64_t> bytes) = 0;
  virtual Result<void> set_cache_ttl(const std::string& tenant, storage::CacheKind kind,
                                     std::optional<std::chrono::milliseconds> ttl) = 0;
  // Asks a node's cache on disk, or, where `node` is empty, that of each node that is there and has
  // one. What one of several answers with an error is in its answer. Errors: not_found (the node,
  // or the tenant of a purge: none is recorded, nor had entries), failed_precondition (no cache).
  virtual Result<std::vector<NodeCacheAnswer>> ask_caches(const CacheCall& call,
                                                          const std::string& node) = 0;

  virtual Result<std::vector<ModelView>> models() = 0;
  // Empty `nodes`: all of them. Returns when it is accepted; models() shows how far it is.
  virtual Result<void> load_model(const std::string& name, const std::string& source,
                                  const std::vector<std::string>& nodes) = 0;
  virtual Result<void> unload_model(const std::string& name) = 0;
  virtual Result<void> place_model(const std::string& name,
                                   const std::vector<std::string>& nodes) = 0;

  // What the memory governors did, of this process and of the nodes that report to it.
  virtual std::vector<cluster::Event> events(const cluster::EventLog::Query& query) = 0;
};

}  // namespace plimsoll
