#include "cli/scorecard/machine.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

namespace plimsoll::cli::scorecard {

namespace {

// Widest first, as the kernel names them.
constexpr std::array vectors = {"amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni",
                                "avx2",     "sse4_2",      "sve2",        "sve",     "asimd"};

// The value of the first line "KEY : VALUE".
std::string field(const std::string& text, const std::string& key) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const auto begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}

std::string contents(const char* file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

Machine machine_of(const std::string& cpuinfo, const std::string& meminfo) {
  Machine machine;
  machine.processor = field(cpuinfo, "model name");
  std::istringstream words(field(cpuinfo, "flags") + " " + field(cpuinfo, "Features"));
  const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
  const auto* found =
      std::ranges::find_if(vectors, [&](const char* name) { return flags.count(name) > 0; });
  machine.isa = found == vectors.end() ? "portable" : *found;
  machine.ram_bytes = std::strtoull(field(meminfo, "MemTotal").c_str(), nullptr, 10) * 1024;
  return machine;
}

Machine this_machine() {
  auto machine = machine_of(contents("/proc/cpuinfo"), contents("/proc/meminfo"));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    machine.cores = static_cast<std::uint32_t>(CPU_COUNT(&set));
  }
  return machine;
}

}  // namespace plimsoll::cli::scorecard
