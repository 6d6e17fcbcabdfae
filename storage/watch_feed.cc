#include "storage/watch_feed.h"

#include <algorithm>
#include <utility>

namespace plimsoll::storage {

void WatchFeed::listed(const std::vector<StateEntry>& entries, std::uint64_t revision) {
  std::vector<StateChange> changes;
  std::map<std::string, std::uint64_t> now;
  for (const auto& entry : entries) {
    now.emplace(entry.key, entry.revision);
    const auto known = known_.find(entry.key);
    if (known == known_.end() || known->second != entry.revision) changes.push_back({entry, false});
  }
  for (const auto& [key, was] : known_) {
    if (!now.contains(key)) changes.push_back({{key, {}, revision}, true});
  }
  std::stable_sort(changes.begin(), changes.end(), [](const auto& a, const auto& b) {
    return a.entry.revision < b.entry.revision;
  });
  known_ = std::move(now);
  revision_ = revision;
  // The first call comes even if nothing is there: the watcher waits for it.
  if (changes.empty() && started_) return;
  started_ = true;
  callback_(changes);
}

void WatchFeed::changed(std::vector<StateChange> changes) {
  std::erase_if(changes, [&](const auto& change) { return change.entry.revision <= revision_; });
  if (changes.empty()) return;
  for (const auto& change : changes) {
    if (change.removed) {
      known_.erase(change.entry.key);
    } else {
      known_[change.entry.key] = change.entry.revision;
    }
  }
  revision_ = changes.back().entry.revision;
  callback_(changes);
}

}  // namespace plimsoll::storage
