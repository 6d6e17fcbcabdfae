// What of an event log a neighbour has not been told yet. A log adds to its entries for a second:
// what an entry has grown by since it was told comes again as an entry of its own, which the
// neighbour's log adds to the one that it has. The sums are the same in both logs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "cluster/event_log.h"

namespace plimsoll::cluster {

class EventFeed {
 public:
  // At most `most` events, the oldest first. What does not fit comes with the next call.
  std::vector<Event> next(const EventLog& log, double unix_seconds, std::size_t most);

 private:
  struct Told {
    double unix_seconds = 0;
    std::uint32_t count = 0;
    std::uint64_t bytes = 0;
  };
  std::uint64_t settled_ = 0;           // up to this id nothing changes any more
  std::map<std::uint64_t, Told> told_;  // of the entries after it, by id
};

}  // namespace plimsoll::cluster
