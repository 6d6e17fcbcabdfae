@0xb8a6c90e4d1f7732;
# The operator API: what the cluster is doing, where its memory is, and what shall change.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");
using Error = import "error.capnp".Error;
using MemoryReport = import "memory.capnp".MemoryReport;
using Cache = import "cache.capnp";

interface Operator {
  # Every call's `error` is null when all went well; then, and only then, its other results count.
  # The rights are checked on each call: a key that was revoked can do nothing more here.

  status @0 () -> (status :Status, error :Error);
  memory @1 () -> (report :MemoryReport, error :Error);
  # Of the server's own process.

  # ---- the cluster and its nodes
  cluster @2 () -> (view :ClusterView, error :Error);
  cordon @3 (node :Text, on :Bool) -> (error :Error);
  # A cordoned node takes nothing new and keeps what it has.
  drain @4 (node :Text, deadlineMs :UInt32)
      -> (finished :UInt32, moved :UInt32, cut :UInt32, error :Error);
  # Returns when the node holds no sequence any more, or the deadline has passed and the rest was
  # cut. Drains run one after the other.
  remove @5 (node :Text, force :Bool) -> (error :Error);
  rebalance @6 (dryRun :Bool) -> (moves :List(Move), error :Error);

  # ---- who may join
  createJoinToken @7 (ttlSeconds :UInt32) -> (token :Text, error :Error);
  listJoinTokens @8 () -> (tokens :List(JoinToken), error :Error);
  revokeJoinToken @9 (id :Text) -> (error :Error);

  # ---- tenants
  listTenants @10 () -> (tenants :List(TenantView), error :Error);
  showTenant @11 (name :Text) -> (tenant :TenantView, error :Error);
  createTenant @12 (tenant :Tenant) -> (apiKey :Text, error :Error);
  # The key is said this once; the cluster keeps only its hash.
  setQuota @13 (tenant :Text, quota :Quota) -> (error :Error);
  setTier @14 (tenant :Text, tier :Tier) -> (error :Error);
  suspend @15 (tenant :Text, on :Bool) -> (error :Error);
  rotateKey @16 (tenant :Text, graceSeconds :UInt32) -> (apiKey :Text, error :Error);
  # Older keys stay valid for the grace period.
  usage @17 () -> (usage :List(TenantUsage), error :Error);

  # ---- models
  listModels @18 () -> (models :List(PlacedModel), error :Error);
  loadModel @19 (name :Text, source :Text, nodes :List(Text)) -> (error :Error);
  # No nodes: all of them. Returns when it is accepted; listModels shows how far it is.
  unloadModel @20 (name :Text) -> (error :Error);
  placeModel @21 (name :Text, nodes :List(Text)) -> (error :Error);

  # ---- the memory governor
  events @22 (query :EventQuery) -> (events :List(Event), error :Error);
  # The oldest first; of too many the newest. What repeats is added to an event that is less than a
  # second old, which keeps its id.
  nodeMemory @23 () -> (nodes :List(NodeMemory), error :Error);
  # Of the server's own process, the first, and of the nodes that report to it.

  # ---- the caches on disk
  # Where a call takes a node: empty means each that is there and has such a cache.
  setNoStore @24 (tenant :Text, on :Bool) -> (error :Error);
  setCacheQuota @25 (tenant :Text, bytes :UInt64 = 0xffffffffffffffff) -> (error :Error);
  # On each node. All ones: as the node is configured. 0: nothing is stored.
  setCacheTtl @26 (tenant :Text, ttl :Cache.CacheTtl, node :Text)
      -> (nodes :List(NodeCacheAnswer), error :Error);
  # Of a tenant, on all nodes; it stays so. Without one, of a node's other tenants, until that node
  # is started again. `nodes` is of the latter.
  purgeCache @27 (what :Cache.CachePurge, node :Text)
      -> (nodes :List(NodeCacheAnswer), error :Error);
  # Returns when the bytes are in no file any more.
  lookAtCache @28 (node :Text) -> (nodes :List(NodeCacheAnswer), error :Error);
}

struct NodeCacheAnswer {
  node @0 :Text;
  answer @1 :Cache.CacheAnswer;
}

struct Status {
  version @0 :Text;
  uptimeSeconds @1 :Float64;
  pressure @2 :Pressure;
  nodes @3 :List(Node);
}

enum Pressure {
  green @0;
  yellow @1;
  orange @2;
  red @3;
}

struct Node {
  name @0 :Text;
  state @1 :Text;
  engines @2 :List(Engine);
}

struct Engine {
  model @0 :Text;
  waiting @1 :UInt32;
  running @2 :UInt32;
  paused @3 :UInt32;
  kvBlocksTotal @4 :UInt32;
  kvBlocksUsed @5 :UInt32;
  kvBlocksCached @6 :UInt32;
  stepsTotal @7 :UInt64;
  promptTokensTotal @8 :UInt64;
  cachedPromptTokensTotal @9 :UInt64;
  generatedTokensTotal @10 :UInt64;
  preemptionsTotal @11 :UInt64;
  finishedTotal @12 :UInt64;
  refusedTotal @13 :UInt64;
  cancelledTotal @14 :UInt64;
  stepSecondsTotal @15 :Float64;
}

struct NodeMemory {
  node @0 :Text;
  ageSeconds @1 :Float64;
  # Since the node reported.
  report @2 :MemoryReport;
}

struct EventQuery {
  after @0 :UInt64;
  # Only ids over it.
  node @1 :Text;
  # Empty: any. The same for the next two.
  tenant @2 :Text;
  kind @3 :Text;
  limit @4 :UInt32 = 100;
}

struct Event {
  id @0 :UInt64;
  # Given by the router that answers.
  unixSeconds @1 :Float64;
  node @2 :Text;
  kind @3 :Text;
  # level, evict, preempt, cancel, refuse, purge, alarm or oom_kill.
  level @4 :Pressure;
  # The one that holds, after it.
  tenant @5 :Text;
  model @6 :Text;
  cause @7 :Text;
  bytes @8 :UInt64;
  # That it freed or denied.
  count @9 :UInt32;
  usedBytes @10 :UInt64;
  # Of the node, at that moment.
  limitBytes @11 :UInt64;
}

struct ClusterView {
  version @0 :Text;
  store @1 :Text;
  # Where the cluster's records are: embedded, etcd or memory.
  membershipVersion @2 :UInt64;
  uptimeSeconds @3 :Float64;
  routers @4 :List(Router);
  nodes @5 :List(ClusterNode);
}

struct Router {
  name @0 :Text;
  address @1 :Text;
  self @2 :Bool;
  # The one that answers.
  streams @3 :UInt32;
  tokensPerSecond @4 :Float64;
}

struct ClusterNode {
  name @0 :Text;
  state @1 :Text;
  address @2 :Text;
  version @3 :Text;
  epoch @4 :UInt64;
  weight @5 :Float64;
  slowFactor @6 :Float64;
  heartbeatAgeSeconds @7 :Float64;
  sequences @8 :UInt32;
  tokensPerSecond @9 :Float64;
  memoryUsedBytes @10 :UInt64;
  memoryLimitBytes @11 :UInt64;
  pressure @12 :Pressure;
  models @13 :List(Text);
}

struct Move {
  tenant @0 :Text;
  from @1 :Text;
  to @2 :Text;
  sequences @3 :UInt32;
}

struct JoinToken {
  id @0 :Text;
  # Not enough to use it.
  expires @1 :UInt64;
  # Unix time.
}

enum Tier {
  guaranteed @0;
  standard @1;
  bestEffort @2;
}

struct Quota {
  # Over the whole cluster. 0: no limit.
  requestsPerSecond @0 :Float64;
  promptTokensPerSecond @1 :Float64;
  generatedTokensPerSecond @2 :Float64;
  burstSeconds @3 :Float64 = 6;
  sequences @4 :UInt32 = 64;
  # Never 0.
  kvBytes @5 :UInt64;
  cacheBytes @6 :UInt64;
  promptTokens @7 :UInt32;
  generatedTokens @8 :UInt32;
  deadlineMs @9 :UInt32;
  models @10 :List(Text);
  # Empty: all.
  guaranteedBytes @11 :UInt64;
  # Of KV, kept for it whatever others do. 0: none.
  burstBytes @12 :UInt64;
  # Of KV, over kvBytes, while no node is short of memory. 0: none.
  requestTokens @13 :UInt32;
  # Of one request: its prompt and all that it may generate.
}

struct Tenant {
  name @0 :Text;
  tier @1 :Tier = standard;
  quota @2 :Quota;
  suspended @3 :Bool;
  isOperator @4 :Bool;
  keys @5 :List(Key);
  # Ignored when a tenant is created.
  noStore @6 :Bool;
  # Nothing that is computed for it goes to a cache on disk.
  diskCacheBytes @7 :UInt64 = 0xffffffffffffffff;
  # There, on each node. All ones: as the node is configured. Set by setCacheQuota, the next three by
  # setCacheTtl; ignored when a tenant is created.
  prefixTtlMs @8 :UInt32 = 0xffffffff;
  embeddingTtlMs @9 :UInt32 = 0xffffffff;
  tokensTtlMs @10 :UInt32 = 0xffffffff;
  struct Key {
    created @0 :UInt64;
    # Unix time, as is the next.
    expires @1 :UInt64;
    # 0: never.
  }
}

struct TenantView {
  tenant @0 :Tenant;
  home @1 :List(Text);
  # Its nodes, best first.
  sequences @2 :UInt32;
  tokensPerSecond @3 :Float64;
  memoryBytes @4 :UInt64;
}

struct TenantUsage {
  # Since the tenant was created.
  tenant @0 :Text;
  requests @1 :UInt64;
  promptTokens @2 :UInt64;
  cachedTokens @3 :UInt64;
  generatedTokens @4 :UInt64;
  kvByteSeconds @5 :Float64;
  rejections @6 :List(Rejection);
  cacheByteSeconds @7 :Float64;
  weightsByteSeconds @8 :Float64;
  # Its part of its models' weights, by the tokens it was served; what nobody used has the tenant
  # "(idle)".
  struct Rejection {
    reason @0 :Text;
    count @1 :UInt64;
  }
}

struct PlacedModel {
  name @0 :Text;
  version @1 :Text;
  source @2 :Text;
  replicas @3 :List(Replica);
  struct Replica {
    node @0 :Text;
    state @1 :Text;
    # loading, ready, failed or unloading.
    reason @2 :Text;
    # Why it failed.
  }
}
