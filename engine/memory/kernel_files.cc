#include "engine/memory/kernel_files.h"

#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>

namespace plimsoll {

namespace fs = std::filesystem;

std::optional<std::string> read_kernel_file(const fs::path& path) {
  std::ifstream in(path);
  if (!in) return std::nullopt;
  return std::string{std::istreambuf_iterator<char>(in), {}};
}

std::optional<std::uint64_t> parse_kernel_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> read_kernel_number(const fs::path& path) {
  const auto text = read_kernel_file(path);
  return text ? parse_kernel_number(*text) : std::nullopt;
}

std::optional<std::uint64_t> read_kernel_keyed(const fs::path& path, std::string_view key) {
  std::istringstream in(read_kernel_file(path).value_or(""));
  for (std::string name, value; in >> name >> value;) {
    if (name == key) return parse_kernel_number(value);
  }
  return std::nullopt;
}

namespace {

// cgroups(7): /proc/self/cgroup has "id:controllers:path" lines, v2's with empty controllers.
std::optional<std::string> group_path(const fs::path& root, bool v2) {
  std::istringstream in(read_kernel_file(root / "proc/self/cgroup").value_or(""));
  for (std::string line; std::getline(in, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (v2 ? controllers == ",," : controllers.find(",memory,") != std::string::npos) {
      return line.substr(second + 1);
    }
  }
  return std::nullopt;
}

}  // namespace

// proc_pid_mountinfo(5): "id parent dev root mountpoint options... - type source superoptions".
std::optional<CgroupFolder> find_cgroup(const fs::path& root, CgroupVersion version) {
  const bool v2 = version == CgroupVersion::v2;
  const auto path = group_path(root, v2);
  if (!path) return std::nullopt;
  std::istringstream in(read_kernel_file(root / "proc/self/mountinfo").value_or(""));
  for (std::string line; std::getline(in, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line.substr(0, dash));
    std::istringstream after(line.substr(dash + 3));
    std::string skip;
    std::string mount_root;
    std::string mount_point;
    std::string type;
    std::string options;
    before >> skip >> skip >> skip >> mount_root >> mount_point;
    after >> type >> skip >> options;
    const bool memory = ("," + options + ",").find(",memory,") != std::string::npos;
    if (v2 ? type != "cgroup2" : (type != "cgroup" || !memory)) continue;
    // In a container the mount may begin at the group itself.
    std::string below = *path;
    if (mount_root != "/")
      below = below.starts_with(mount_root) ? below.substr(mount_root.size()) : "";
    while (below.starts_with('/')) below.erase(0, 1);
    CgroupFolder group;
    group.mount = root / fs::path(mount_point).relative_path();
    group.folder = below.empty() ? group.mount : group.mount / below;
    group.path = *path;
    return group;
  }
  return std::nullopt;
}

}  // namespace plimsoll
