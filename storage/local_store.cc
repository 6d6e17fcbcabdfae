#include "storage/local_store.h"

#include <algorithm>
#include <utility>

#include "storage/limits.h"
#include "storage/watch_feed.h"

namespace plimsoll::storage {
namespace {

// A watcher that is further behind is told the difference to a fresh list instead.
constexpr std::size_t max_pending_changes = 4096;
// Leases that end close together end in one go, and a failing disk is not asked in a busy loop.
constexpr std::chrono::milliseconds least_lease_sleep{10};
constexpr std::chrono::milliseconds retry_after_failure{1000};
constexpr std::size_t max_leases = 100'000;

}  // namespace

class LocalStore::LocalWatch final : public Watch {
 public:
  LocalWatch(LocalStore& store, std::string prefix, WatchCallback callback)
      : store_(store), prefix_(std::move(prefix)), feed_(std::move(callback)) {
    {
      const std::lock_guard lock(store_.mutex_);
      store_.watches_.insert(this);
    }
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  ~LocalWatch() override {
    thread_.request_stop();
    thread_.join();
    const std::lock_guard lock(store_.mutex_);
    store_.watches_.erase(this);
  }

  // With the store's mutex held.
  void notify(const std::vector<StateChange>& changes) {
    for (const auto& change : changes) {
      if (must_list_ || !change.entry.key.starts_with(prefix_)) continue;
      pending_.push_back(change);
      if (pending_.size() > max_pending_changes) {
        must_list_ = true;
        pending_ = {};
      }
    }
    if (must_list_ || !pending_.empty()) changed_.notify_one();
  }

 private:
  void run(const std::stop_token& stop) {
    std::unique_lock lock(store_.mutex_);
    while (changed_.wait(lock, stop, [this] { return must_list_ || !pending_.empty(); })) {
      if (stop.stop_requested()) return;
      if (must_list_) {
        auto listed = store_.table_->list(prefix_);
        if (!listed) {
          changed_.wait_for(lock, stop, retry_after_failure, [] { return false; });
          continue;
        }
        const auto revision = store_.revision_;
        must_list_ = false;
        lock.unlock();
        std::vector<StateEntry> entries;
        for (auto& item : *listed) entries.push_back(std::move(item.entry));
        feed_.listed(entries, revision);
      } else {
        auto changes = std::exchange(pending_, {});
        lock.unlock();
        feed_.changed(std::move(changes));
      }
      lock.lock();
    }
  }

  LocalStore& store_;
  const std::string prefix_;
  WatchFeed feed_;
  std::vector<StateChange> pending_;
  bool must_list_ = true;
  std::condition_variable_any changed_;
  std::jthread thread_;
};

Result<std::unique_ptr<StateStore>> LocalStore::open(std::unique_ptr<Table> table) {
  std::unique_ptr<LocalStore> store(new LocalStore(std::move(table)));
  if (auto loaded = store->load(); !loaded) return tl::unexpected(loaded.error());
  store->lease_thread_ =
      std::jthread([s = store.get()](std::stop_token stop) { s->run_leases(std::move(stop)); });
  return store;
}

LocalStore::~LocalStore() = default;

Result<void> LocalStore::load() {
  revision_ = table_->revision();
  auto leases = table_->leases();
  if (!leases) return tl::unexpected(leases.error());
  for (const auto& [id, ttl] : *leases) leases_[id] = {ttl, Clock::now() + ttl, {}};
  auto all = table_->list("");
  if (!all) return tl::unexpected(all.error());
  for (const auto& item : *all) {
    const auto lease = leases_.find(item.lease);
    if (lease != leases_.end()) lease->second.keys.insert(item.entry.key);
  }
  return {};
}

Result<std::optional<StateEntry>> LocalStore::get(const std::string& key) {
  const std::lock_guard lock(mutex_);
  auto found = table_->get(key);
  if (!found) return tl::unexpected(found.error());
  if (!*found) return std::nullopt;
  return std::move((*found)->entry);
}

Result<std::vector<StateEntry>> LocalStore::list(const std::string& prefix) {
  const std::lock_guard lock(mutex_);
  auto found = table_->list(prefix);
  if (!found) return tl::unexpected(found.error());
  std::vector<StateEntry> entries;
  for (auto& item : *found) entries.push_back(std::move(item.entry));
  return entries;
}

Result<std::uint64_t> LocalStore::put(const std::string& key, const std::string& value,
                                      std::optional<std::uint64_t> expected, LeaseId lease) {
  if (auto good = check_record(key, value); !good) return tl::unexpected(good.error());
  const std::lock_guard lock(mutex_);
  const auto held = leases_.find(lease);
  if (lease != 0 && (held == leases_.end() || held->second.end <= Clock::now())) {
    return fail(ErrorCode::not_found, "the lease has ended; grant a new one");
  }
  auto before = table_->get(key);
  if (!before) return tl::unexpected(before.error());
  if (expected && *expected != (*before ? (*before)->entry.revision : 0)) {
    return fail(conflict(key));
  }
  TableBatch batch;
  batch.puts.push_back({{key, value, revision_ + 1}, lease});
  if (auto done = commit(batch); !done) return tl::unexpected(done.error());
  if (*before && (*before)->lease != lease) {
    const auto old = leases_.find((*before)->lease);
    if (old != leases_.end()) old->second.keys.erase(key);
  }
  if (lease != 0) held->second.keys.insert(key);
  return revision_;
}

Result<void> LocalStore::remove(const std::string& key, std::optional<std::uint64_t> expected) {
  const std::lock_guard lock(mutex_);
  auto before = table_->get(key);
  if (!before) return tl::unexpected(before.error());
  if (expected && *expected != (*before ? (*before)->entry.revision : 0)) {
    return fail(conflict(key));
  }
  if (!*before) return {};
  TableBatch batch;
  batch.removals.push_back(key);
  if (auto done = commit(batch); !done) return done;
  const auto lease = leases_.find((*before)->lease);
  if (lease != leases_.end()) lease->second.keys.erase(key);
  return {};
}

Result<LeaseId> LocalStore::grant(std::chrono::milliseconds ttl) {
  if (ttl <= std::chrono::milliseconds::zero() || ttl > std::chrono::years(1)) {
    return fail(ErrorCode::invalid_argument, "a lease lasts at least 1 ms and at most a year");
  }
  const std::lock_guard lock(mutex_);
  if (leases_.size() >= max_leases) {
    return fail(ErrorCode::resource_exhausted,
                "the state store holds " + std::to_string(max_leases) + " leases already");
  }
  // A revision comes once only, before and after a restart: it serves as the lease's name.
  const LeaseId id = revision_ + 1;
  TableBatch batch;
  batch.granted.emplace(id, ttl);
  if (auto done = commit(batch); !done) return tl::unexpected(done.error());
  leases_[id] = {ttl, Clock::now() + ttl, {}};
  last_granted_ = id;
  lease_granted_.notify_one();
  return id;
}

Result<void> LocalStore::keep_alive(LeaseId lease) {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(lease);
  const auto now = Clock::now();
  if (found == leases_.end() || found->second.end <= now) {
    return fail(ErrorCode::not_found, "the lease has ended; grant a new one");
  }
  found->second.end = now + found->second.ttl;
  return {};
}

Result<void> LocalStore::revoke(LeaseId lease) {
  const std::lock_guard lock(mutex_);
  if (!leases_.contains(lease)) return fail(ErrorCode::not_found, "the lease has ended already");
  return end_lease(lease);
}

Result<void> LocalStore::end_lease(LeaseId id) {
  TableBatch batch;
  batch.ended.push_back(id);
  const auto& keys = leases_.at(id).keys;
  batch.removals.assign(keys.begin(), keys.end());
  if (auto done = commit(batch); !done) return done;
  leases_.erase(id);
  return {};
}

Result<void> LocalStore::commit(TableBatch& batch) {
  batch.revision = revision_ + 1;
  if (auto applied = table_->apply(batch); !applied) return applied;
  revision_ = batch.revision;
  std::vector<StateChange> changes;
  for (const auto& put : batch.puts) changes.push_back({put.entry, false});
  for (const auto& key : batch.removals) changes.push_back({{key, {}, revision_}, true});
  for (auto* watch : watches_) watch->notify(changes);
  return {};
}

void LocalStore::run_leases(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (leases_.empty()) {
      lease_granted_.wait(lock, stop, [this] { return !leases_.empty(); });
      continue;
    }
    const auto now = Clock::now();
    auto next = Clock::time_point::max();
    std::vector<LeaseId> ended;
    for (const auto& [id, lease] : leases_) {
      if (lease.end <= now) {
        ended.push_back(id);
      } else {
        next = std::min(next, lease.end);
      }
    }
    for (const auto id : ended) {
      if (!end_lease(id)) next = std::min(next, now + retry_after_failure);
    }
    if (leases_.empty()) continue;
    // A grant may bring an earlier end. What was kept alive meanwhile is seen on waking.
    const auto known = last_granted_;
    lease_granted_.wait_until(lock, stop, std::max(next, now + least_lease_sleep),
                              [&] { return last_granted_ != known; });
  }
}

std::unique_ptr<StateStore::Watch> LocalStore::watch(const std::string& prefix,
                                                     WatchCallback callback) {
  return std::make_unique<LocalWatch>(*this, prefix, std::move(callback));
}

}  // namespace plimsoll::storage
