#include "engine/memory/headroom.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

#include "engine/memory/kernel_files.h"

namespace plimsoll {

namespace fs = std::filesystem;

namespace {

// The value of "Key:   123 kB", as in /proc/meminfo and /proc/self/status; 0 where it is absent.
std::uint64_t kibibyte_field(const std::string& text, std::string_view key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ':') continue;
    const auto digits = line.find_first_of("0123456789");
    if (digits == std::string::npos) return 0;
    return parse_kernel_number(std::string_view(line).substr(digits)).value_or(0) * 1024;
  }
  return 0;
}

std::uint64_t less(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

// One group's own limit and usage; absent where it has no limit.
std::optional<MemoryScope> read_group(const fs::path& folder, CgroupVersion version) {
  const bool v2 = version == CgroupVersion::v2;
  const fs::path stat = folder / "memory.stat";
  auto limit = read_kernel_number(folder / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  // v2 throttles at memory.high as if nothing were free. In a container v1 shows the limits of the
  // groups above only here.
  const auto also = v2 ? read_kernel_number(folder / "memory.high")
                       : read_kernel_keyed(stat, "hierarchical_memory_limit");
  if (also) limit = std::min(limit.value_or(*also), *also);
  const auto current =
      read_kernel_number(folder / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  constexpr std::uint64_t unlimited = 1ULL << 62;  // v1 says so with a large number
  if (!limit || !current || *limit == 0 || *limit >= unlimited) return std::nullopt;
  const auto of = [&](const char* key) { return read_kernel_keyed(stat, key).value_or(0); };
  const std::uint64_t reclaimable =
      v2 ? of("active_file") + of("inactive_file") + of("slab_reclaimable")
         : of("total_active_file") + of("total_inactive_file");
  MemoryScope scope;
  scope.kind = MemoryScope::Kind::cgroup;
  scope.limit_bytes = *limit;
  scope.used_bytes = less(*current, reclaimable);
  return scope;
}

std::optional<MemoryScope> fullest_group(const fs::path& root, CgroupVersion version) {
  const auto group = find_cgroup(root, version);
  if (!group) return std::nullopt;
  std::optional<MemoryScope> fullest;
  for (fs::path folder = group->folder;; folder = folder.parent_path()) {
    if (auto scope = read_group(folder, version)) {
      const auto relative = folder.lexically_relative(group->mount).string();
      scope->path = relative == "." ? "/" : "/" + relative;
      if (!fullest || scope->used_share() > fullest->used_share()) fullest = std::move(scope);
    }
    if (folder == group->mount || !folder.has_relative_path()) return fullest;
  }
}

}  // namespace

Result<std::vector<MemoryScope>> read_memory_scopes(std::uint64_t process_limit_bytes,
                                                    const fs::path& root) {
  std::vector<MemoryScope> scopes;
  if (process_limit_bytes > 0) {
    const auto own = read_own_bytes(root);
    if (!own) return fail(own.error());
    MemoryScope scope;
    scope.limit_bytes = process_limit_bytes;
    scope.used_bytes = *own;
    scopes.push_back(std::move(scope));
  }
  auto group = fullest_group(root, CgroupVersion::v2);
  if (!group) group = fullest_group(root, CgroupVersion::v1);
  if (group) scopes.push_back(std::move(*group));
  const auto meminfo = read_kernel_file(root / "proc/meminfo");
  if (!meminfo) return fail(ErrorCode::not_found, "cannot read /proc/meminfo");
  MemoryScope machine;
  machine.kind = MemoryScope::Kind::machine;
  machine.limit_bytes = kibibyte_field(*meminfo, "MemTotal");
  machine.used_bytes = less(machine.limit_bytes, kibibyte_field(*meminfo, "MemAvailable"));
  if (machine.limit_bytes > 0) scopes.push_back(std::move(machine));
  if (scopes.empty()) return fail(ErrorCode::not_found, "/proc/meminfo has no MemTotal");
  return scopes;
}

Result<std::uint64_t> read_own_bytes(const fs::path& root) {
  const auto status = read_kernel_file(root / "proc/self/status");
  if (!status) return fail(ErrorCode::not_found, "cannot read /proc/self/status");
  return kibibyte_field(*status, "RssAnon") + kibibyte_field(*status, "RssShmem") +
         kibibyte_field(*status, "VmSwap");
}

std::uint64_t tightest_limit_bytes(const std::vector<MemoryScope>& scopes) {
  auto tightest = std::numeric_limits<std::uint64_t>::max();
  for (const auto& scope : scopes) tightest = std::min(tightest, scope.limit_bytes);
  return tightest;
}

}  // namespace plimsoll
