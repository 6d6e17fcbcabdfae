#include "engine/memory/process_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>

#include "engine/memory/kernel_files.h"
#include "engine/memory/runtime_memory.h"

// Present where the program runs on jemalloc.
extern "C" int mallctl(const char* name, void* old_value, std::size_t* old_length, void* new_value,
                       std::size_t new_length) __attribute__((weak));

namespace plimsoll {

namespace fs = std::filesystem;

namespace {

std::optional<CgroupMemory> read_v2(const CgroupFolder& group) {
  const auto current = read_kernel_number(group.folder / "memory.current");
  if (!current) return std::nullopt;  // no memory controller, or the root group
  CgroupMemory memory;
  memory.version = CgroupVersion::v2;
  memory.path = group.path;
  memory.current_bytes = *current;
  memory.high_bytes = read_kernel_number(group.folder / "memory.high");
  memory.oom_kills = read_kernel_keyed(group.folder / "memory.events", "oom_kill");
  memory.limit_hits = read_kernel_keyed(group.folder / "memory.events", "max");
  memory.high_hits = read_kernel_keyed(group.folder / "memory.events", "high");
  memory.ooms = read_kernel_keyed(group.folder / "memory.events", "oom");
  // The tightest limit on the way up is the one that kills.
  for (fs::path folder = group.folder;; folder = folder.parent_path()) {
    if (const auto limit = read_kernel_number(folder / "memory.max")) {
      memory.limit_bytes = std::min(memory.limit_bytes.value_or(*limit), *limit);
    }
    if (folder == group.mount || !folder.has_relative_path()) break;
  }
  return memory;
}

std::optional<CgroupMemory> read_v1(const CgroupFolder& group) {
  const auto usage = read_kernel_number(group.folder / "memory.usage_in_bytes");
  if (!usage) return std::nullopt;
  CgroupMemory memory;
  memory.version = CgroupVersion::v1;
  memory.path = group.path;
  memory.current_bytes = *usage;
  constexpr std::uint64_t unlimited = 1ULL << 62;
  auto limit = read_kernel_keyed(group.folder / "memory.stat", "hierarchical_memory_limit");
  if (!limit) limit = read_kernel_number(group.folder / "memory.limit_in_bytes");
  if (limit && *limit < unlimited) memory.limit_bytes = limit;
  memory.oom_kills = read_kernel_keyed(group.folder / "memory.oom_control", "oom_kill");
  memory.limit_hits = read_kernel_number(group.folder / "memory.failcnt");
  if (const auto under = read_kernel_keyed(group.folder / "memory.oom_control", "under_oom")) {
    memory.under_oom = *under != 0;
  }
  return memory;
}

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", and the same for "full".
std::optional<MemoryPressure> parse_pressure(const std::string& text) {
  MemoryPressure pressure;
  bool some = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    const bool full = kind == "full";
    some |= kind == "some";
    for (std::string word; words >> word;) {
      const auto equals = word.find('=');
      if (equals == std::string::npos) continue;
      const std::string name = word.substr(0, equals);
      const double value = std::strtod(word.c_str() + equals + 1, nullptr);
      if (name == "avg10") (full ? pressure.full_avg10 : pressure.some_avg10) = value;
      if (name == "avg60") (full ? pressure.full_avg60 : pressure.some_avg60) = value;
      if (name == "total") {
        (full ? pressure.full_total_us : pressure.some_total_us) =
            parse_kernel_number(std::string_view(word).substr(equals + 1)).value_or(0);
      }
    }
  }
  return some ? std::optional(pressure) : std::nullopt;
}

std::uint64_t mallctl_size(const char* name) {
  std::size_t value = 0;
  std::size_t length = sizeof value;
  mallctl(name, &value, &length, nullptr, 0);
  return value;
}

// KV pools and arenas are mappings of their own; what other components charge is in the heap.
bool has_own_mapping(Component component) {
  return component == Component::kv || component == Component::activations;
}

// What the loader, threads and the allocator take, beside what is charged to `runtime` already.
std::uint64_t measure_runtime(const std::vector<LedgerRow>& rows,
                              const std::optional<AllocatorMemory>& allocator) {
  const auto pages = read_anonymous_pages();
  if (!pages) return 0;
  std::int64_t mapped = 0;
  for (const auto& row : rows) {
    if (row.kind == MemoryKind::anonymous && has_own_mapping(row.component)) {
      mapped += row.resident_bytes;
    }
  }
  std::uint64_t bytes = pages->loader_bytes + pages->stack_bytes;
  if (allocator) {
    // 4096 is MALLCTL_ARENAS_ALL.
    bytes += allocator_overhead(
        *pages, static_cast<std::uint64_t>(std::max<std::int64_t>(mapped, 0)),
        {allocator->allocated_bytes, mallctl_size("stats.arenas.4096.tcache_bytes"),
         allocator->resident_bytes});
  }
  return bytes;
}

// One row of `runtime`, whether something is charged to it or not.
void add_runtime(std::vector<LedgerRow>& rows, std::uint64_t bytes) {
  const auto measured = static_cast<std::int64_t>(bytes);
  auto row = std::ranges::find_if(rows, [](const LedgerRow& r) {
    return r.component == Component::runtime && r.model.empty() &&
           r.tenant == shared_tenant.get() && r.kind == MemoryKind::anonymous &&
           r.endpoint == Endpoint::none;
  });
  if (row == rows.end()) {
    rows.push_back({Component::runtime, "", shared_tenant.get(), MemoryKind::anonymous, 0, 0, 0});
    row = rows.end() - 1;
  }
  row->bytes += measured;
  row->resident_bytes += measured;
  row->peak_bytes = std::max(row->peak_bytes, row->bytes);
}

}  // namespace

Result<ProcessMemory> read_process_memory(const fs::path& proc) {
  const auto text = read_kernel_file(proc / "self/smaps_rollup");
  if (!text) return fail(ErrorCode::unsupported, "cannot read /proc/self/smaps_rollup");
  std::istringstream in(*text);
  std::string line;
  std::getline(in, line);  // the address range
  ProcessMemory memory;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t kibibytes = 0;
    if (!(words >> name >> kibibytes)) continue;
    const std::uint64_t bytes = kibibytes * 1024;
    if (name == "Rss:") memory.rss_bytes = bytes;
    if (name == "Pss:") memory.pss_bytes = bytes;
    if (name == "Anonymous:") memory.anonymous_bytes = bytes;
    if (name == "Swap:") memory.swap_bytes = bytes;
  }
  if (memory.rss_bytes < memory.anonymous_bytes) {
    return fail(ErrorCode::malformed, "/proc/self/smaps_rollup has more anonymous memory than RSS");
  }
  memory.file_bytes = memory.rss_bytes - memory.anonymous_bytes;
  return memory;
}

Result<CgroupMemory> read_cgroup_memory(const fs::path& root) {
  if (const auto group = find_cgroup(root, CgroupVersion::v2)) {
    if (auto memory = read_v2(*group)) return *memory;
  }
  if (const auto group = find_cgroup(root, CgroupVersion::v1)) {
    if (auto memory = read_v1(*group)) return *memory;
  }
  return fail(ErrorCode::not_found, "this process is in no cgroup with a memory controller");
}

Result<MemoryPressure> read_memory_pressure(const fs::path& root) {
  if (const auto group = find_cgroup(root, CgroupVersion::v2)) {
    // Every group but the host's root has a cgroup.type.
    std::error_code error;
    const bool scoped = fs::exists(group->folder / "cgroup.type", error);
    if (scoped) {
      auto pressure =
          parse_pressure(read_kernel_file(group->folder / "memory.pressure").value_or(""));
      if (pressure) {
        pressure->cgroup_scoped = true;
        return *pressure;
      }
    }
  }
  return read_host_pressure(root);
}

Result<MemoryPressure> read_host_pressure(const fs::path& root) {
  if (auto pressure =
          parse_pressure(read_kernel_file(root / "proc/pressure/memory").value_or(""))) {
    return *pressure;
  }
  return fail(ErrorCode::not_found, "the kernel offers no pressure stall information");
}

std::optional<AllocatorMemory> read_allocator_memory() {
  if (mallctl == nullptr) return std::nullopt;
  std::uint64_t epoch = 1;  // figures are those of the last epoch
  std::size_t length = sizeof epoch;
  mallctl("epoch", &epoch, &length, &epoch, length);
  AllocatorMemory memory;
  memory.allocated_bytes = mallctl_size("stats.allocated");
  memory.active_bytes = mallctl_size("stats.active");
  memory.resident_bytes = mallctl_size("stats.resident");
  memory.metadata_bytes = mallctl_size("stats.metadata");
  return memory;
}

void purge_allocator() {
  // 4096 is MALLCTL_ARENAS_ALL.
  if (mallctl != nullptr) mallctl("arena.4096.purge", nullptr, nullptr, nullptr, 0);
}

void allocate_apart() {
  // The threshold from which on a buffer goes back at once is also each arena's own.
  unsigned int arena = 0;
  std::size_t length = sizeof arena, never = std::numeric_limits<std::size_t>::max();
  if (mallctl == nullptr || mallctl("arenas.create", &arena, &length, nullptr, 0) != 0) return;
  const auto threshold = "arena." + std::to_string(arena) + ".oversize_threshold";
  mallctl(threshold.c_str(), nullptr, nullptr, &never, sizeof never);
  mallctl("thread.arena", nullptr, nullptr, &arena, sizeof arena);
}

std::uint64_t resident_bytes(const void* data, std::uint64_t size) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const std::uint64_t pages =
      (reinterpret_cast<std::uintptr_t>(data) + size - begin + page - 1) / page;
  std::vector<unsigned char> present(std::min<std::uint64_t>(pages, 1 << 16));
  std::uint64_t resident = 0;
  for (std::uint64_t done = 0; done < pages; done += present.size()) {
    const std::uint64_t count = std::min<std::uint64_t>(pages - done, present.size());
    if (mincore(reinterpret_cast<void*>(begin + done * page), count * page, present.data()) != 0) {
      break;
    }
    resident += static_cast<std::uint64_t>(
        std::count_if(present.begin(), present.begin() + static_cast<std::ptrdiff_t>(count),
                      [](unsigned char p) { return (p & 1) != 0; }));
  }
  return std::min(resident * page, size);
}

Result<MemoryReport> make_memory_report(const Ledger& ledger) {
  auto process = read_process_memory();
  if (!process) return fail(process.error());
  MemoryReport report;
  report.process = *process;
  report.rows = ledger.snapshot();
  if (auto cgroup = read_cgroup_memory()) report.cgroup = *cgroup;
  if (auto pressure = read_memory_pressure()) report.pressure = *pressure;
  if (auto pressure = read_host_pressure()) report.host_pressure = *pressure;
  report.allocator = read_allocator_memory();
  add_runtime(report.rows, measure_runtime(report.rows, report.allocator));
  for (const auto& row : report.rows) {
    if (row.kind == MemoryKind::anonymous) {
      report.ledger_anonymous_bytes += row.bytes;
      report.ledger_touched_bytes += row.resident_bytes;
    }
    if (row.kind == MemoryKind::mapped) report.ledger_mapped_bytes += row.bytes;
  }
  report.unattributed_bytes =
      static_cast<std::int64_t>(process->anonymous_bytes) - report.ledger_touched_bytes;
  return report;
}

}  // namespace plimsoll
