// A whole simulated cluster: its machines, its tenants, what is asked of it and what goes wrong.
// run() throws Violation if an invariant does not hold.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/cluster/simulation/clients.h"
#include "tests/cluster/simulation/network.h"
#include "tests/cluster/simulation/node.h"
#include "tests/cluster/simulation/quota_checks.h"
#include "tests/cluster/simulation/router_process.h"
#include "tests/cluster/simulation/store.h"
#include "tests/cluster/simulation/world.h"

namespace plimsoll::simulation {

struct Options {
  std::uint64_t seed = 1;
  std::uint32_t routers = 3;
  std::uint32_t nodes = 8;
  std::uint32_t tenants = 20;
  double seconds = 60;   // with load and faults; then all heals, and what is open must end
  double requests = 20;  // a second
  double faults = 0.5;   // a second
  bool flood = false;    // two equal tenants, of which one floods; no faults
  bool trace = false;

  static Options small(std::uint64_t seed);  // a cluster of chance
  std::string arguments() const;             // that give this run again
};

struct Figures {
  std::uint64_t events = 0;
  ClientCounts clients;
  std::uint64_t faults = 0, conflicts = 0;
  double flood_ratio = 0;  // the flood's service over its equal's
};

class Scenario {
 public:
  explicit Scenario(const Options& options);
  Figures run();

 private:
  cluster::Tenant make_tenant(std::uint32_t number);
  void arrive();
  void fault();
  void one_fault();
  void heal();
  void change_tenant();
  void run_flood();
  void check_end();
  Node& some_node() { return *nodes_[world_.index(nodes_.size())]; }
  std::size_t some_router() { return world_.index(routers_.size()); }

  Options options_;
  World world_;
  Network network_;
  Store store_;
  Records records_;
  QuotaChecks quotas_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<RouterProcess>> routers_;
  Clients clients_;
  bool over_ = false;  // the time of load and faults is
  std::uint64_t faults_ = 0;
};

}  // namespace plimsoll::simulation
