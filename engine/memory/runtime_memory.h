// Memory that nobody asked for by name: what the loader, the threads and the allocator take. The
// ledger's component `runtime`, from the kernel's and the allocator's own figures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace plimsoll {

// From /proc/self/smaps: written pages, by what they belong to.
struct AnonymousPages {
  std::uint64_t loader_bytes = 0;   // of mapped files: relocations and data of libraries
  std::uint64_t stack_bytes = 0;    // of threads
  std::uint64_t unnamed_bytes = 0;  // all else: the heap, KV pools, arenas
};
std::optional<AnonymousPages> read_anonymous_pages(const std::filesystem::path& proc = "/proc");

struct HeapFigures {
  std::uint64_t allocated_bytes = 0;  // by the allocator's word; it counts the next one in
  std::uint64_t cached_bytes = 0;     // freed objects that threads keep to themselves
  std::uint64_t resident_bytes = 0;   // at most: what was never touched is counted too
};

// What the heap takes beside the objects that the program has: rests of pages, freed objects and
// pages, the allocator's records. Of the unnamed pages, `mapped_bytes` are the ledger's own
// mappings; what is over the allocator's own figure is none of its doing, and stays unattributed.
std::uint64_t allocator_overhead(const AnonymousPages& pages, std::uint64_t mapped_bytes,
                                 const HeapFigures& heap);

}  // namespace plimsoll
