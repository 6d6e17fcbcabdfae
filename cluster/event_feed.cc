#include "cluster/event_feed.h"

namespace plimsoll::cluster {

std::vector<Event> EventFeed::next(const EventLog& log, double unix_seconds, std::size_t most) {
  std::vector<Event> out;
  for (auto& event : log.after(settled_)) {
    auto& told = told_[event.id];
    if (event.count > told.count) {
      if (out.size() == most) {
        if (told.count == 0) told_.erase(event.id);
        return out;
      }
      const Told now{event.unix_seconds, event.count, event.bytes};
      event.count -= told.count;
      event.bytes -= told.bytes;
      told = now;
      out.push_back(std::move(event));
    }
  }
  // Twice the second for which the log adds to an entry: its caller's clock was read before.
  while (!told_.empty() && told_.begin()->second.unix_seconds < unix_seconds - 2) {
    settled_ = told_.begin()->first;
    told_.erase(told_.begin());
  }
  return out;
}

}  // namespace plimsoll::cluster
