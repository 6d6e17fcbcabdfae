#include "actors/open_requests.h"

#include <fmt/format.h>

namespace plimsoll {

Result<void> OpenRequests::enter(std::uint64_t id, const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (closed_) {
    return fail(Error(ErrorCode::unavailable, "the server is stopping").retry_after(1000));
  }
  if (entries_.size() >= most_) {
    return fail(Error(ErrorCode::resource_exhausted,
                      fmt::format("the server has {} requests open: no more fit", most_))
                    .with_reason("open_requests")
                    .retry_after(1000));
  }
  entries_[id] = {nullptr, name};
  if (!name.empty()) names_[name] = id;
  return {};
}

void OpenRequests::set_actor(std::uint64_t id, caf::strong_actor_ptr actor) {
  const std::lock_guard lock(mutex_);
  if (const auto it = entries_.find(id); it != entries_.end()) it->second.actor = std::move(actor);
}

void OpenRequests::leave(std::uint64_t id) {
  caf::strong_actor_ptr last;  // outlives the lock
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  last = std::move(it->second.actor);
  if (const auto named = names_.find(it->second.name);
      named != names_.end() && named->second == id) {
    names_.erase(named);
  }
  entries_.erase(it);
  if (entries_.empty()) left_.notify_all();
}

caf::strong_actor_ptr OpenRequests::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto named = names_.find(name);
  return named == names_.end() ? nullptr : entries_.at(named->second).actor;
}

std::uint32_t OpenRequests::count() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::uint32_t>(entries_.size());
}

bool OpenRequests::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

void OpenRequests::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

bool OpenRequests::wait_until_empty(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return left_.wait_until(lock, deadline, [this] { return entries_.empty(); });
}

std::vector<caf::strong_actor_ptr> OpenRequests::actors() const {
  const std::lock_guard lock(mutex_);
  std::vector<caf::strong_actor_ptr> out;
  for (const auto& [id, entry] : entries_) {
    if (entry.actor) out.push_back(entry.actor);
  }
  return out;
}

}  // namespace plimsoll
