@0xb8a6c90e4d1f7732;
# The operator API: what the cluster is doing, and where its memory is.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");

interface Operator {
  status @0 () -> (status :Status);
  memory @1 () -> (report :MemoryReport, error :import "error.capnp".Error);
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

struct MemoryReport {
  rows @0 :List(MemoryRow);
  rssBytes @1 :UInt64;
  pssBytes @2 :UInt64;
  anonymousBytes @3 :UInt64;
  fileBytes @4 :UInt64;
  ledgerAnonymousBytes @5 :Int64;
  ledgerMappedBytes @6 :Int64;
  unattributedBytes @7 :Int64;
  cgroupLimitBytes @8 :Int64 = -1;
  # -1: no limit, or no memory cgroup.
  cgroupCurrentBytes @9 :Int64 = -1;
  pressureSomeAvg10 @10 :Float64 = -1;
  allocatorAllocatedBytes @11 :Int64 = -1;
  allocatorActiveBytes @12 :Int64 = -1;
  oomKills @13 :Int64 = -1;
  ledgerTouchedBytes @14 :Int64;
  # Of ledgerAnonymousBytes, what is in memory.
}

struct MemoryRow {
  component @0 :Text;
  model @1 :Text;
  tenant @2 :Text;
  kind @3 :Text;
  bytes @4 :Int64;
  peakBytes @5 :Int64;
  residentBytes @6 :Int64;
  # What of it is in memory: touched, or of a mapping in page cache.
}
