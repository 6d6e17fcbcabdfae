@0xe2b75c0d94a1f638;
# What an operator asks of a node's cache on disk, and what the node answers; from a router to its
# nodes as well.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");
using Error = import "error.capnp".Error;

struct CachePurge {
  # Entries that match all of it. Kinds are prefix, embedding and tokens.
  tenant @0 :Text;
  allTenants @1 :Bool;
  # One of the two is given.
  kind @2 :Text;
  # Empty: all.
  olderThanMs @3 :UInt64;
}

struct CacheTtl {
  # Of entries of tenants that have no TTL of their own, until the node is started again.
  kind @0 :Text;
  ttlMs @1 :UInt32 = 0xffffffff;
  # All ones: as the node is configured. 0: none is stored.
}

struct CacheAnswer {
  error @0 :Error;
  # Null where all went well.
  purgedEntries @1 :UInt64;
  report @2 :CacheReport;
}

struct CacheReport {
  bytes @0 :UInt64;
  # Of entries' files on disk.
  limitBytes @1 :UInt64;
  # What they may come to.
  bufferedBytes @2 :UInt64;
  # In memory, as are the next two.
  indexBytes @3 :UInt64;
  tableBytes @4 :UInt64;
  trouble @5 :Text;
  # Why nothing is written at present. Empty: all is well.
  rows @6 :List(CacheRow);
}

struct CacheRow {
  # Totals are since the node's start.
  tenant @0 :Text;
  kind @1 :Text;
  bytes @2 :UInt64;
  entries @3 :UInt64;
  quotaBytes @4 :UInt64;
  # Of the tenant, all kinds together.
  ttlMs @5 :UInt32;
  hitsTotal @6 :UInt64;
  missesTotal @7 :UInt64;
  evictedTotal @8 :UInt64;
  expiredTotal @9 :UInt64;
  purgedTotal @10 :UInt64;
  damagedTotal @11 :UInt64;
  refusedTotal @12 :UInt64;
  droppedTotal @13 :UInt64;
}
