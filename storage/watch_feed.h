// What one watcher has been told, so that it is told everything else exactly once: of a state that
// was listed anew (at the start, after lost changes) the difference, of changes those it lacks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "storage/state_store.h"

namespace plimsoll::storage {

// Not thread-safe: used by the one thread that calls the watcher back.
class WatchFeed {
 public:
  explicit WatchFeed(StateStore::WatchCallback callback) : callback_(std::move(callback)) {}

  // All that was there at `revision`.
  void listed(const std::vector<StateEntry>& entries, std::uint64_t revision);
  // In order of their revisions.
  void changed(std::vector<StateChange> changes);

  std::uint64_t revision() const { return revision_; }  // up to here all is told

 private:
  StateStore::WatchCallback callback_;
  std::map<std::string, std::uint64_t> known_;  // revisions by key
  std::uint64_t revision_ = 0;
  bool started_ = false;
};

}  // namespace plimsoll::storage
