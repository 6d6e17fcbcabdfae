#include "cluster/event_log.h"

#include <algorithm>
#include <utility>

namespace plimsoll::cluster {
namespace {

bool same_line(const Event& a, const Event& b) {
  return a.node == b.node && a.kind == b.kind && a.level == b.level && a.tenant == b.tenant &&
         a.model == b.model;
}

}  // namespace

void EventLog::add(Event event) {
  const std::lock_guard lock(mutex_);
  totals_[static_cast<std::size_t>(event.kind)] += event.count;
  for (auto it = events_.rbegin(); it != events_.rend(); ++it) {
    if (it->unix_seconds < event.unix_seconds - 1) break;
    if (event.kind == EventKind::level || !same_line(*it, event)) continue;
    it->bytes += event.bytes;
    it->count += event.count;
    it->cause = std::move(event.cause);
    it->used_bytes = event.used_bytes;
    it->limit_bytes = event.limit_bytes;
    return;
  }
  event.id = ++last_id_;
  events_.push_back(std::move(event));
  if (events_.size() > capacity_) events_.pop_front();
}

std::vector<Event> EventLog::after(std::uint64_t after, std::size_t limit) const {
  const std::lock_guard lock(mutex_);
  const auto first = std::ranges::upper_bound(events_, after, {}, &Event::id);
  const auto count = std::min<std::size_t>(limit, static_cast<std::size_t>(events_.end() - first));
  return {first, first + static_cast<std::ptrdiff_t>(count)};
}

std::vector<Event> EventLog::find(const Query& wanted) const {
  std::vector<Event> found;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = events_.rbegin(); it != events_.rend() && it->id > wanted.after; ++it) {
      if (found.size() >= wanted.limit) break;
      if (!wanted.node.empty() && it->node != wanted.node) continue;
      if (!wanted.tenant.empty() && it->tenant != wanted.tenant) continue;
      if (wanted.kind && it->kind != *wanted.kind) continue;
      found.push_back(*it);
    }
  }
  std::ranges::reverse(found);
  return found;
}

std::uint64_t EventLog::last_id() const {
  const std::lock_guard lock(mutex_);
  return last_id_;
}

std::uint64_t EventLog::total(EventKind kind) const {
  const std::lock_guard lock(mutex_);
  return totals_[static_cast<std::size_t>(kind)];
}

}  // namespace plimsoll::cluster
