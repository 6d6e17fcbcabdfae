// Small files in which the kernel says its figures, and where this process's cgroup is among them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace plimsoll {

enum class CgroupVersion : std::uint8_t { none, v1, v2 };

std::optional<std::string> read_kernel_file(const std::filesystem::path& path);
std::optional<std::uint64_t> parse_kernel_number(std::string_view text);
// A file that holds one number; absent for "max".
std::optional<std::uint64_t> read_kernel_number(const std::filesystem::path& path);
// The value behind `key` in a file of "key value" lines.
std::optional<std::uint64_t> read_kernel_keyed(const std::filesystem::path& path,
                                               std::string_view key);

// Where this process sits: the group's folder, and the mount that it lies in.
struct CgroupFolder {
  std::filesystem::path folder;
  std::filesystem::path mount;
  std::string path;  // below the mount
};
// The group of the memory controller (v1), or of the unified hierarchy (v2). `root` is "/", or a
// recorded tree.
std::optional<CgroupFolder> find_cgroup(const std::filesystem::path& root, CgroupVersion version);

}  // namespace plimsoll
