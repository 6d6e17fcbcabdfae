// The machine that this process runs on.
#pragma once

#include <cstdint>
#include <string>

namespace plimsoll::cli::scorecard {

struct Machine {
  std::string processor;    // "Intel(R) Xeon(R) ..."; empty: it does not say
  std::string isa;          // its widest vectors: "avx512_vnni", "avx2", "asimd", ...
  std::uint32_t cores = 0;  // that this process may use
  std::uint64_t ram_bytes = 0;
};

Machine this_machine();
// Of the texts of /proc/cpuinfo and /proc/meminfo.
Machine machine_of(const std::string& cpuinfo, const std::string& meminfo);

}  // namespace plimsoll::cli::scorecard
