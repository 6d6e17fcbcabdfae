// What an operator may ask of a Plimsoll cluster and do to it.
//
//   plimsoll::client::Client client({.addresses = {"127.0.0.1:8081"}, .api_key = key});
//   plimsoll::client::Operator cluster(client);
//   for (const auto& node : cluster.view().nodes) std::cout << node.name << "\n";
//
// This header needs the standard library only. Calls need a key with the operator's rights, block,
// and throw Error. A call that lost its connection may have been done or not: look before you
// repeat it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client.h"

namespace plimsoll::client {

struct ClusterNode {
  std::string name;
  std::string state;    // joining, ready, cordoned, draining or lost
  std::string address;  // "local": in the router's own process
  std::string version;
  std::uint64_t epoch = 0;
  double weight = 1;
  double slow_factor = 1;  // below 1: it is slower than its peers and gets less
  double heartbeat_age_seconds = 0;
  std::uint32_t sequences = 0;
  double tokens_per_second = 0;
  std::uint64_t memory_used_bytes = 0;
  std::uint64_t memory_limit_bytes = 0;
  std::string pressure;  // green, yellow, orange or red
  std::vector<std::string> models;
};
struct Router {
  std::string name;
  std::string address;
  bool self = false;  // the one that answers
  std::uint32_t streams = 0;
  double tokens_per_second = 0;
};
struct ClusterView {
  std::string version;
  std::string store;  // embedded, etcd or memory
  std::uint64_t membership_version = 0;
  double uptime_seconds = 0;
  std::vector<Router> routers;
  std::vector<ClusterNode> nodes;
};
struct Drained {
  std::uint32_t finished = 0, moved = 0;
  std::uint32_t cut = 0;  // ended with a retryable error
};
struct Move {
  std::string tenant, from, to;
  std::uint32_t sequences = 0;
};
struct JoinToken {
  std::string id;             // not enough to use it
  std::uint64_t expires = 0;  // Unix time
};

// Limits over the whole cluster. 0: no limit.
struct Quota {
  double requests_per_second = 0;
  double prompt_tokens_per_second = 0;
  double generated_tokens_per_second = 0;
  double burst_seconds = 6;      // of each rate may come at once
  std::uint32_t sequences = 64;  // waiting and running; never 0
  std::uint64_t kv_bytes = 0;
  std::uint64_t guaranteed_bytes = 0;  // of KV, kept for it whatever others do
  std::uint64_t burst_bytes = 0;       // of KV, over kv_bytes while no node is short of memory
  std::uint64_t cache_bytes = 0;
  std::uint32_t prompt_tokens = 0;       // of one request
  std::uint32_t generated_tokens = 0;    // of one sequence
  std::uint32_t request_tokens = 0;      // of one request, prompt and all that it may generate
  std::uint32_t deadline_ms = 0;         // longest that a request may ask for
  std::vector<std::string> models = {};  // allowed; empty: all
  bool operator==(const Quota&) const = default;
};
struct Tenant {
  std::string name;
  std::string tier = "standard";  // guaranteed, standard or best-effort
  Quota quota;
  bool suspended = false;
  bool is_operator = false;
  bool no_store = false;  // nothing that is computed for it goes to a cache on disk
  // There, on each node; absent: as the node is configured. By set_cache_quota() and
  // set_cache_ttl(); ignored when a tenant is created.
  std::optional<std::uint64_t> disk_cache_bytes;
  std::map<std::string, std::chrono::milliseconds> disk_cache_ttl;  // by kind
  struct Key {
    std::uint64_t created = 0;  // Unix time
    std::uint64_t expires = 0;  // 0: never
  };
  std::vector<Key> keys;  // ignored when a tenant is created
};
struct TenantView {
  Tenant tenant;
  std::vector<std::string> home;  // its nodes, best first
  std::uint32_t sequences = 0;
  double tokens_per_second = 0;
  std::uint64_t memory_bytes = 0;
};
// Since the tenant was created.
struct TenantUsage {
  std::string tenant;
  std::uint64_t requests = 0, prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  double kv_byte_seconds = 0, cache_byte_seconds = 0;
  // Its part of its models' weights; what nobody used has the tenant "(idle)".
  double weights_byte_seconds = 0;
  std::map<std::string, std::uint64_t> rejections;  // by reason
};

struct PlacedModel {
  std::string name, version, source;
  struct Replica {
    std::string node;
    std::string state;  // loading, ready, failed or unloading
    std::string reason;
  };
  std::vector<Replica> replicas;
};

// What a node's memory governor saw or did.
struct Event {
  std::uint64_t id = 0;  // of the router that answers
  double unix_seconds = 0;
  std::string node;
  std::string kind;   // level, evict, preempt, cancel, refuse, purge, alarm or oom_kill
  std::string level;  // the one that holds, after it
  std::string tenant, model, cause;
  std::uint64_t bytes = 0;  // that it freed or denied
  std::uint32_t count = 0;
  std::uint64_t used_bytes = 0, limit_bytes = 0;  // of the node, at that moment
};
struct EventQuery {
  std::uint64_t after = 0;         // only ids over it
  std::string node, tenant, kind;  // empty: any
  std::uint32_t limit = 100;       // of too many the newest come
};

// One kind of entry (prefix, embedding or tokens) of one tenant in a node's cache on disk. Totals
// are since the node's start.
struct CacheRow {
  std::string tenant, kind;
  std::uint64_t bytes = 0, entries = 0;
  std::uint64_t quota_bytes = 0;  // of the tenant, all kinds together
  std::chrono::milliseconds ttl{0};
  std::uint64_t hits_total = 0, misses_total = 0;
  std::uint64_t evicted_total = 0, expired_total = 0, purged_total = 0, damaged_total = 0;
  std::uint64_t refused_total = 0, dropped_total = 0;
};
struct NodeCache {
  std::string node;
  std::optional<Error> error;                                          // instead of the rest
  std::uint64_t purged_entries = 0;                                    // of a purge
  std::uint64_t bytes = 0, limit_bytes = 0;                            // on disk
  std::uint64_t buffered_bytes = 0, index_bytes = 0, table_bytes = 0;  // in memory
  std::string trouble;  // why nothing is written at present; empty: all is well
  std::vector<CacheRow> rows;
};
struct CachePurge {
  std::string tenant = {};  // or else:
  bool all_tenants = false;
  std::string kind = {};  // empty: all
  std::chrono::milliseconds older_than{0};
};

class Operator {
 public:
  explicit Operator(Client& client) : client_(client) {}  // `client` outlives it

  ClusterView view();
  // A cordoned node takes nothing new and keeps what it has.
  void cordon(const std::string& node, bool on);
  // Returns when the node is empty, or the deadline has passed and the rest was cut.
  Drained drain(const std::string& node, std::chrono::milliseconds deadline);
  void remove(const std::string& node, bool force);  // a live node only with `force`
  std::vector<Move> rebalance(bool dry_run);

  std::string create_join_token(std::chrono::seconds ttl);
  std::vector<JoinToken> join_tokens();
  void revoke_join_token(const std::string& id);

  std::vector<TenantView> tenants();
  TenantView tenant(const std::string& name);
  std::string create_tenant(const Tenant& tenant);  // its first key
  void set_quota(const std::string& tenant, const Quota& quota);
  void set_tier(const std::string& tenant, const std::string& tier);
  void set_no_store(const std::string& tenant, bool on);
  void suspend(const std::string& tenant, bool on);
  // A new key; older ones stay valid for `grace`.
  std::string rotate_key(const std::string& tenant, std::chrono::seconds grace);
  std::vector<TenantUsage> usage();

  // The caches on disk of one node or, where `node` is empty, of each that is there and has one.
  std::vector<NodeCache> caches(const std::string& node = {});
  // Returns when the bytes are in no file any more.
  std::vector<NodeCache> purge_caches(const CachePurge& what, const std::string& node = {});
  // Of what a tenant has there, on each node. Absent: as the node is configured; 0: nothing.
  void set_cache_quota(const std::string& tenant, std::optional<std::uint64_t> bytes);
  void set_cache_ttl(const std::string& tenant, const std::string& kind,
                     std::optional<std::chrono::milliseconds> ttl);
  // Of tenants without a TTL of their own, until the node is started again.
  std::vector<NodeCache> set_default_cache_ttl(const std::string& kind,
                                               std::optional<std::chrono::milliseconds> ttl,
                                               const std::string& node = {});

  std::vector<PlacedModel> models();
  // No nodes: all of them. Returns when it is accepted; models() shows how far it is.
  void load_model(const std::string& name, const std::string& source,
                  const std::vector<std::string>& nodes);
  void unload_model(const std::string& name);
  void place_model(const std::string& name, const std::vector<std::string>& nodes);

  // The oldest first. What repeats is added to an event that is less than a second old.
  std::vector<Event> events(const EventQuery& query);

 private:
  Client& client_;
};

}  // namespace plimsoll::client
