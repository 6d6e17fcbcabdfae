@0xc505d1b9cc898e70;
# What the cluster's state store keeps, each a packed message under one key.
#
# Records outlive the build that wrote them. Fields are added at the end, with a default that means
# what it meant before they were there; none is removed, renumbered or given another meaning. A build
# that changes a record drops the fields that it does not know: upgrade all routers before using a
# new field.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");

struct TenantRecord {
  # config/tenants/NAME
  name @0 :Text;
  tier @1 :Tier;
  suspended @2 :Bool;
  isOperator @3 :Bool;
  keys @4 :List(Key);
  quota @5 :Quota;
  declared @6 :Text;
  # SHA-256, in lower-case hex, of the configuration's entry that the record was last brought to;
  # empty: none.
  noStore @7 :Bool;
  # Nothing that is computed for it goes to a cache on disk.
  diskCacheBytes @8 :UInt64 = 0xffffffffffffffff;
  # On each node. All ones: as the node is configured.
  prefixTtlMs @9 :UInt32 = 0xffffffff;
  # Of what is cached on disk. All ones: as above. The same for the next two.
  embeddingTtlMs @10 :UInt32 = 0xffffffff;
  tokensTtlMs @11 :UInt32 = 0xffffffff;

  enum Tier {
    guaranteed @0;
    standard @1;
    bestEffort @2;
  }
  struct Key {
    sha256 @0 :Text;
    # Lower-case hex. The key itself is nowhere.
    createdS @1 :UInt64;
    # Times are Unix times, in seconds. 0: it is the configuration's.
    expiresS @2 :UInt64;
    # 0: never.
  }
  struct Quota {
    # Of the whole cluster. 0 is no limit, save of burstSeconds and sequences.
    requestsPerSecond @0 :Float64;
    promptTokensPerSecond @1 :Float64;
    generatedTokensPerSecond @2 :Float64;
    burstSeconds @3 :Float64 = 6;
    sequences @4 :UInt32 = 64;
    kvBytes @5 :UInt64;
    cacheBytes @6 :UInt64;
    promptTokens @7 :UInt32;
    # Of one request.
    generatedTokens @8 :UInt32;
    # Of one sequence.
    deadlineMs @9 :UInt32;
    models @10 :List(Text);
    # Allowed; empty: all.
    guaranteedBytes @11 :UInt64;
    burstBytes @12 :UInt64;
    # 0: none.
    requestTokens @13 :UInt32;
    # Of one request, prompt and all that it may generate.
  }
}

struct NodeRecord {
  # config/nodes/NAME: a node that was admitted, whether it is there or not.
  name @0 :Text;
  secretSha256 @1 :Text;
  # Lower-case hex, of what the node proves itself with when it comes back.
  cordoned @2 :Bool;
  joinedS @3 :UInt64;
  drainUntilMs @4 :UInt64;
  # Unix time, in milliseconds; 0: it does not drain.
}

struct RouterRecord {
  # routers/NAME: a router that is alive. Goes with its lease.
  name @0 :Text;
  address @1 :Text;
  # Of its RPC gateway.
  software @2 :Text;
  streams @3 :UInt32;
  tokensPerSecond @4 :Float64;
  lease @5 :UInt64;
  # The store's name for the lease under which it was written: tells one's own record from that of
  # another router of this name.
}

struct PlacementRecord {
  # config/placements/MODEL: a model that was added at run time.
  model @0 :Text;
  source @1 :Text;
  nodes @2 :List(Text);
  # That shall serve it; empty: all.
}

struct JoinTokenRecord {
  # join_tokens/SHA256 of the token, in hex. Removed when it is spent.
  createdS @0 :UInt64;
  expiresS @1 :UInt64;
}

struct UsageRecord {
  # usage/ROUTER/BUCKET: what went through that router since its first start, by tenant. Only grows.
  # A tenant's bucket is 0 to 63, by a hash of its name: one record has no room for all.
  tenants @0 :List(Entry);

  struct Entry {
    tenant @0 :Text;
    requests @1 :UInt64;
    promptTokens @2 :UInt64;
    cachedTokens @3 :UInt64;
    generatedTokens @4 :UInt64;
    kvByteSeconds @5 :Float64;
    rejections @6 :List(Rejection);
    cacheByteSeconds @7 :Float64;
    weightsByteSeconds @8 :Float64;
  }
  struct Rejection {
    reason @0 :Text;
    count @1 :UInt64;
  }
}

struct QuotaLeaseRecord {
  # quota_leases/TENANT: how the routers divide the tenant's quota now.
  shares @0 :List(Share);

  struct Share {
    router @0 :Text;
    share @1 :Float64;
    demand @2 :Float64;
    expiresMs @3 :UInt64;
    # Unix time, in milliseconds.
  }
}
