// This router's shares of the tenants' quotas, renewed in the store while the tenants are active
// here (cluster/lease.h). A share that is not renewed runs out by itself: an idle tenant's goes to
// the other routers, and a router that is cut off from the store stops.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "actors/directory.h"
#include "actors/messages.h"
#include "cluster/lease.h"

namespace plimsoll {

struct QuotaLeasesConfig {
  cluster::LeaseConfig lease{};
  // How long a tenant counts as active after it last asked for something. Longer than the router's
  // lease_patience: a share may come as late as that.
  std::chrono::milliseconds idle{10'000};
  std::function<std::uint64_t()>
      unix_ms{};  // the clock that all routers share; absent: the system's
};

class QuotaLeases {
 public:
  // `wake` is called by want(), and must not block: renew() is to be called soon.
  QuotaLeases(Directory& directory, std::function<void()> wake, QuotaLeasesConfig config = {});

  // A tenant needs a share. Any thread; does not block.
  void want(const std::string& tenant);

  // Gets shares for those who want one, then renews those that have used up a part of theirs, and
  // gives them to the router. To be called by one thread, when woken and at least three times in a
  // lease's duration. Blocks for the store.
  void renew(const RouterActor& router);

  // For metrics; any thread.
  std::uint64_t renewals() const { return renewals_; }
  std::uint64_t failures() const { return failures_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Tenant {
    Clock::time_point wanted{};   // last
    Clock::time_point expires{};  // of the share here
    bool unreadable = false;      // its record in the store
  };
  struct Need;
  using Names = std::vector<std::string>;

  bool serve_wanted(const RouterActor& router);
  Names due(Clock::time_point now) const;  // whose shares end first, first
  bool serve(const RouterActor& router, const Names& names, Clock::time_point at);
  bool note_failure(const std::string& name, Tenant& tenant, const Error& error);

  Directory& directory_;
  const std::function<void()> wake_;
  QuotaLeasesConfig config_;

  std::mutex wanted_mutex_;
  std::set<std::string> wanted_;  // since the last look

  // Of the thread that renews.
  std::map<std::string, Tenant> tenants_;  // that are active
  bool out_of_reach_ = false;              // the store, last time
  bool too_slow_ = false;                  // it was said

  std::atomic<std::uint64_t> renewals_{0}, failures_{0};
};

}  // namespace plimsoll
