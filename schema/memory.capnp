@0xd3f2a7719c40be65;
# Where the memory of a process is: the ledger beside what the kernel and the allocator say. To an
# operator, and from a node to its routers.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");

struct MemoryReport {
  # Figures that the machine does not offer are -1, or null.
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
  # As in groupPressure or, where the group has none, in hostPressure.
  allocatorAllocatedBytes @11 :Int64 = -1;
  allocatorActiveBytes @12 :Int64 = -1;
  oomKills @13 :Int64 = -1;
  ledgerTouchedBytes @14 :Int64;
  # Of ledgerAnonymousBytes, what is in memory.
  swapBytes @15 :UInt64;
  allocatorResidentBytes @16 :Int64 = -1;
  allocatorMetadataBytes @17 :Int64 = -1;
  cgroupVersion @18 :UInt8;
  # 1 or 2; 0: there is no memory cgroup.
  cgroupHighBytes @19 :Int64 = -1;
  limitHits @20 :Int64 = -1;
  # memory.events:max, or memory.failcnt.
  highHits @21 :Int64 = -1;
  ooms @22 :Int64 = -1;
  underOom @23 :Int8 = -1;
  groupPressure @24 :Stalls;
  hostPressure @25 :Stalls;
  phases @26 :MemoryPhases;
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
  endpoint @7 :Text;
  # Empty: no one's, or all of them.
}

struct Stalls {
  # Share of the time, in percent, in which some or all tasks waited for memory.
  someAvg10 @0 :Float64;
  someAvg60 @1 :Float64;
  fullAvg10 @2 :Float64;
  fullAvg60 @3 :Float64;
  someTotalUs @4 :UInt64;
  fullTotalUs @5 :UInt64;
}

struct MemoryPhases {
  observedSeconds @0 :Float64;
  coldStartPeakBytes @1 :UInt64;
  # Of anonymous memory, as is all here; until the warm-up was over.
  steadyBytes @2 :Int64 = -1;
  # The median of the minutes since then; -1: too early to say.
  burstBytes @3 :Int64 = -1;
  # The highest of them over it.
  hasGrowth @4 :Bool;
  growthBytesPerSecond @5 :Float64;
  # Over the last hours.
}
