// The last events of a process, and of the nodes that report to it: bounded, the oldest go first.
// Thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cluster/event.h"

namespace plimsoll::cluster {

class EventLog {
 public:
  explicit EventLog(std::size_t capacity = 4096) : capacity_(capacity) {}

  // Gives it an id. What repeats within a second (same node, kind, level, tenant and model) is
  // added to the entry that is there: a flood of refusals is one line a second.
  void add(Event event);

  // Those with an id over `after`, the oldest first, at most `limit` of them. A merged entry keeps
  // its id: read `count` again while it is less than a second old.
  std::vector<Event> after(std::uint64_t after, std::size_t limit = ~std::size_t{0}) const;
  // Those after `wanted.after` that are wanted, the oldest first; of too many the newest.
  struct Query {
    std::uint64_t after = 0;
    std::string node;    // empty: any
    std::string tenant;  // empty: any
    std::optional<EventKind> kind;
    std::size_t limit = 100;
  };
  std::vector<Event> find(const Query& wanted) const;
  std::uint64_t last_id() const;
  // How often something of a kind has happened since the start, entries that are gone included.
  std::uint64_t total(EventKind kind) const;

 private:
  mutable std::mutex mutex_;
  std::size_t capacity_;
  std::uint64_t last_id_ = 0;
  std::deque<Event> events_;
  std::array<std::uint64_t, event_kinds> totals_{};
};

}  // namespace plimsoll::cluster
