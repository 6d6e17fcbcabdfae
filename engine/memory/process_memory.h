// What the kernel and the allocator say about this process, to hold the ledger against.
//
// Every reader takes the file tree's root, so that recorded trees can be tested; the defaults are
// the live ones. A figure that the machine does not offer is absent, never zero.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/memory/kernel_files.h"
#include "engine/memory/ledger.h"
#include "engine/memory/phases.h"

namespace plimsoll {

// /proc/self/smaps_rollup, in bytes.
struct ProcessMemory {
  std::uint64_t rss_bytes = 0;
  std::uint64_t pss_bytes = 0;
  std::uint64_t anonymous_bytes = 0;
  std::uint64_t file_bytes = 0;  // rss - anonymous: file-backed and shmem
  std::uint64_t swap_bytes = 0;
};
Result<ProcessMemory> read_process_memory(const std::filesystem::path& proc = "/proc");

// The memory controller of the cgroup this process sits in. Limits of "max" (v2) or the v1
// "unlimited" value are absent.
struct CgroupMemory {
  CgroupVersion version = CgroupVersion::none;
  std::string path;  // of the group, below the mount
  std::uint64_t current_bytes = 0;
  std::optional<std::uint64_t> limit_bytes;
  std::optional<std::uint64_t> high_bytes;  // v2 only
  std::optional<std::uint64_t> oom_kills;
  std::optional<std::uint64_t> limit_hits;  // v2 memory.events:max, v1 memory.failcnt
  std::optional<std::uint64_t> high_hits;   // v2 only: memory.events:high
  std::optional<std::uint64_t> ooms;        // v2 only: memory.events:oom
  std::optional<bool> under_oom;            // v1 only: its tasks wait for memory, or for a kill
};
// Finds the group from /proc/self/cgroup and /proc/self/mountinfo; handles v1, v2 and hybrid.
Result<CgroupMemory> read_cgroup_memory(const std::filesystem::path& root = "/");

// Pressure stall information: share of wall time, in percent, that some / all tasks waited.
struct MemoryPressure {
  double some_avg10 = 0, some_avg60 = 0, full_avg10 = 0, full_avg60 = 0;
  std::uint64_t some_total_us = 0, full_total_us = 0;
  bool cgroup_scoped = false;  // false: host-wide, which must not shed for a neighbour's sins
};
// The group's own memory.pressure, or the host's where the group has none.
Result<MemoryPressure> read_memory_pressure(const std::filesystem::path& root = "/");
Result<MemoryPressure> read_host_pressure(const std::filesystem::path& root = "/");

// jemalloc's figures; absent where the program does not run on jemalloc.
struct AllocatorMemory {
  std::uint64_t allocated_bytes = 0;  // asked for by the program
  std::uint64_t active_bytes = 0;     // in pages that hold at least one allocation
  std::uint64_t resident_bytes = 0;
  std::uint64_t metadata_bytes = 0;
};
std::optional<AllocatorMemory> read_allocator_memory();
// Returns dirty pages to the kernel. A no-op without jemalloc.
void purge_allocator();
// From now on large buffers that this thread frees are its own for a second, as small ones are,
// instead of going back to the kernel at once: for a thread that makes and frees one after another.
// A no-op without jemalloc.
void allocate_apart();

// Bytes of [data, data+size) that are in page cache (mincore).
std::uint64_t resident_bytes(const void* data, std::uint64_t size);

// The ledger against the kernel, at one instant.
struct MemoryReport {
  std::vector<LedgerRow> rows;
  ProcessMemory process;
  std::optional<CgroupMemory> cgroup;
  std::optional<MemoryPressure> pressure;       // the group's, where it has its own
  std::optional<MemoryPressure> host_pressure;  // beside it: what the neighbours do
  std::optional<AllocatorMemory> allocator;
  std::optional<MemoryPhases> phases;       // where somebody records them
  std::int64_t ledger_anonymous_bytes = 0;  // charged
  std::int64_t ledger_touched_bytes = 0;    // of the former, what is in memory
  std::int64_t ledger_mapped_bytes = 0;
  // anonymous RSS minus what the ledger says is in memory; a growing value is a bug.
  std::int64_t unattributed_bytes = 0;
};
Result<MemoryReport> make_memory_report(const Ledger& ledger);

}  // namespace plimsoll
