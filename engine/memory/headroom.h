// How close the kernel is to killing this process: what is used and cannot be taken back, under
// each limit that holds for it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll {

struct MemoryScope {
  enum class Kind : std::uint8_t {
    process,  // this process, under the limit that its operator gave
    cgroup,   // its group or one above it, with all that lives there
    machine,
  };
  Kind kind = Kind::process;
  std::string path;              // of a cgroup
  std::uint64_t used_bytes = 0;  // without clean file pages and reclaimable slab
  std::uint64_t limit_bytes = 0;

  double used_share() const {
    return static_cast<double>(used_bytes) / static_cast<double>(limit_bytes);
  }
};

// What this process holds that the kernel cannot take back. Errors: not_found.
Result<std::uint64_t> read_own_bytes(const std::filesystem::path& root = "/");

// One scope of each kind that applies. Of the groups on the way up, the one that is fullest: a
// sibling's memory may exhaust a limit that both are under. `process_limit_bytes` 0: none.
// Reads a few small files; cheap enough for several times a second. Errors: not_found, if not even
// /proc/meminfo can be read.
Result<std::vector<MemoryScope>> read_memory_scopes(std::uint64_t process_limit_bytes,
                                                    const std::filesystem::path& root = "/");

// The tightest limit of `scopes`: what an operator's plan has to fit into.
std::uint64_t tightest_limit_bytes(const std::vector<MemoryScope>& scopes);

}  // namespace plimsoll
