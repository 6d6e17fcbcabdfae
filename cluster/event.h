// What the memory governor saw and did: one line of `plimsoll events`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/pressure.h"

namespace plimsoll::cluster {

enum class EventKind : std::uint8_t {
  level,     // the pressure level changed
  evict,     // cached blocks were dropped
  preempt,   // a sequence lost its blocks and waits to be computed again
  cancel,    // a running sequence was ended with a retryable error
  refuse,    // new requests were turned away
  purge,     // freed memory was given back to the kernel
  alarm,     // growth that will reach the limit
  oom_kill,  // the kernel killed a process of the group
};
inline constexpr std::size_t event_kinds = 8;
std::string_view to_string(EventKind kind);  // "level", "evict", ...
std::optional<EventKind> event_kind(std::string_view name);

struct Event {
  std::uint64_t id = 0;     // given by the log that keeps it: 1, 2, ...
  double unix_seconds = 0;  // when it began
  std::string node;         // where
  EventKind kind = EventKind::level;
  Level level = Level::green;    // the one that holds, after it
  std::string tenant;            // whom it hit; empty: nobody's own
  std::string model;             // empty: no one's
  std::string cause;             // a sentence with the numbers that caused it
  std::uint64_t bytes = 0;       // that it freed or denied
  std::uint32_t count = 1;       // how many blocks, sequences or requests
  std::uint64_t used_bytes = 0;  // of the node, at that moment
  std::uint64_t limit_bytes = 0;

  bool operator==(const Event&) const = default;
};

}  // namespace plimsoll::cluster
