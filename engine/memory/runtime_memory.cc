#include "engine/memory/runtime_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace plimsoll {
namespace {

// "7f00-7f10 rw-p 00000000 08:01 42 /usr/lib/libc.so.6"
struct Mapping {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string permissions;
  std::string name;
};

std::optional<Mapping> parse_mapping(const std::string& line) {
  Mapping mapping;
  std::istringstream words(line);
  char dash = 0;
  std::string skip;
  words >> std::hex >> mapping.begin >> dash >> mapping.end >> mapping.permissions;
  if (!words || dash != '-' || mapping.permissions.size() != 4) return std::nullopt;
  words >> skip >> skip >> skip >> mapping.name;
  return mapping;
}

// glibc puts a thread's stack right above a page that nobody may touch.
constexpr std::uint64_t largest_guard = 64 << 10;
constexpr std::uint64_t largest_stack = 16 << 20;

bool is_guard(const Mapping& mapping) {
  return mapping.name.empty() && mapping.permissions == "---p" &&
         mapping.end - mapping.begin <= largest_guard;
}

}  // namespace

std::optional<AnonymousPages> read_anonymous_pages(const std::filesystem::path& proc) {
  std::ifstream in(proc / "self/smaps");
  if (!in) return std::nullopt;
  AnonymousPages pages;
  Mapping now;
  Mapping before;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("Anonymous:")) {
      std::uint64_t kibibytes = 0;
      std::istringstream(line.substr(10)) >> kibibytes;
      const bool stack = now.name == "[stack]" ||
                         (now.name.empty() && is_guard(before) && before.end == now.begin &&
                          now.end - now.begin <= largest_stack);
      auto& sum = stack              ? pages.stack_bytes
                  : now.name.empty() ? pages.unnamed_bytes
                                     : pages.loader_bytes;
      sum += kibibytes * 1024;
    } else if (!line.empty() && (line[0] < 'A' || line[0] > 'Z')) {
      if (auto mapping = parse_mapping(line)) {
        before = std::move(now);
        now = std::move(*mapping);
      }
    }
  }
  return pages;
}

std::uint64_t allocator_overhead(const AnonymousPages& pages, std::uint64_t mapped_bytes,
                                 const HeapFigures& heap) {
  const auto less = [](std::uint64_t a, std::uint64_t b) { return a - std::min(a, b); };
  const auto present = std::min(less(pages.unnamed_bytes, mapped_bytes), heap.resident_bytes);
  return less(present, less(heap.allocated_bytes, heap.cached_bytes));
}

}  // namespace plimsoll
