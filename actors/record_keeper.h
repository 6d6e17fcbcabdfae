// Keeps a router and the cluster's records in step, on a thread of its own: what operators changed,
// here or at another router, reaches the router actor; what tenants used, and that this router is
// alive, reaches the records.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "actors/directory.h"
#include "actors/messages.h"
#include "cluster/accrual.h"
#include "engine/base/result.h"

namespace plimsoll {

struct RecordKeeperConfig {
  RouterActor router;
  std::string name;     // of this router
  std::string address;  // of its RPC gateway, for the other routers' operators
  bool shared = false;  // other routers use the records too
  std::chrono::milliseconds usage_interval{2000};
  // The models that were added at run time, whenever they change.
  std::function<void(const std::vector<ModelPlacement>&)> on_placements;
  // What the nodes hold now, as far as it is this router's to bill. Absent: nothing is billed.
  std::function<cluster::HeldMemory()> held_memory;
  // About once a second, and when wake() was called. Absent: quotas are not shared.
  std::function<void()> renew_leases;
};

class RecordKeeper {
 public:
  // The directory outlives the keeper.
  RecordKeeper(Directory& directory, RecordKeeperConfig config);
  ~RecordKeeper();
  void stop();  // saves what was used until now; the router must still be there

  void wake();  // from any thread, also one of the store's
  // Brings the router to the records, now. After a change, so that its caller finds it done.
  void apply();
  // Everybody's usage, up to now. Errors: unavailable.
  Result<std::map<std::string, cluster::Usage>> usage();
  // Generated tokens a second on this router, lately.
  std::map<std::string, double> token_rates() const;

 private:
  void run();
  Result<void> save_usage();
  void apply_tenants();
  void apply_cache_policies();
  void apply_nodes();
  void announce();

  Directory& directory_;
  const RecordKeeperConfig config_;

  std::mutex apply_mutex_;
  std::map<std::string, cluster::Tenant> tenants_;  // as the router has them
  CachePolicies cache_policies_;
  std::map<std::string, NodeRecord> nodes_;
  std::vector<ModelPlacement> placements_;

  mutable std::mutex usage_mutex_;
  std::map<std::string, cluster::Usage> own_usage_;
  std::map<std::string, std::uint64_t> generated_;  // since
  std::chrono::steady_clock::time_point rates_since_;
  std::map<std::string, double> token_rates_;
  std::chrono::steady_clock::time_point held_until_;  // memory is billed
  bool usage_failed_ = false;

  std::mutex wake_mutex_;
  std::condition_variable wake_;
  bool woken_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace plimsoll
