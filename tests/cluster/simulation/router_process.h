// A router's process around the real cluster::Router: connections to nodes, leases from the store,
// clients. It can crash, stop, lose its store, and its clocks are its own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cluster/router.h"
#include "tests/cluster/simulation/clients.h"
#include "tests/cluster/simulation/network.h"
#include "tests/cluster/simulation/node.h"
#include "tests/cluster/simulation/quota_checks.h"
#include "tests/cluster/simulation/store.h"
#include "tests/cluster/simulation/world.h"

namespace plimsoll::simulation {

// What the cluster's records say, as every router soon knows.
struct Records {
  std::map<std::string, cluster::Tenant> tenants;
  std::set<std::string> cordoned;
};

struct Cluster {
  World& world;
  Network& network;
  Store& store;
  Records& records;
  QuotaChecks& quotas;
  Clients& clients;
  std::vector<std::unique_ptr<Node>>& nodes;
};

class RouterProcess final : public Peer {
 public:
  RouterProcess(Cluster cluster, std::size_t index, double skew_s, bool checks_loads);

  bool up() const { return core_.has_value(); }
  cluster::Router& core() { return *core_; }
  std::uint64_t lives() const { return life_; }
  std::uint64_t generated() const { return generated_; }  // by its usage records
  std::uint64_t tokens() const { return tokens_; }        // that it passed on

  // ---- what happens to it
  void boot();
  void stop(bool crash);
  void tenant_changed(const std::string& name);
  void cordon(const std::string& node, bool on);
  void drain(const std::string& node, double deadline_s);
  void rebalance();
  void node_hangs(Node& node);  // what it holds must be elsewhere in time
  void check_idle();

  // ---- its clients
  void submit(const std::shared_ptr<ClientStream>& stream);
  void add_credit(cluster::SequenceId id, std::uint32_t tokens);
  void cancel(cluster::SequenceId id);

  // ---- its nodes
  void hello(Node& node, std::uint64_t life) override;
  void report(Node& node, std::uint64_t epoch, const Report& report) override;
  void events(Node& node, std::uint64_t epoch, const std::vector<RunEvent>& events) override;
  void closed(Node& node, std::uint64_t epoch) override;

 private:
  struct Holding {  // of a tenant's lease
    double share = 0;
    bool renewing = false;
    double used = 0;
    std::vector<std::pair<std::shared_ptr<ClientStream>, std::uint32_t>> waiting;
  };

  cluster::Time now() const { return cluster::Time(world_.now() + offset_); }
  std::uint64_t wall_ms() const {
    return static_cast<std::uint64_t>((world_.now() + skew_) * 1000) + 1'000'000;
  }
  Node& node_named(const std::string& name) const;
  void tick(std::uint64_t life);
  void admit(const std::shared_ptr<ClientStream>& stream, std::uint32_t attempt);
  void to_client(std::function<void()> deliver);
  void carry_out();
  void carry_out(cluster::StartRun& start);
  void carry_out(const cluster::CancelRuns& cancel);
  void carry_out(const cluster::CreditRun& credit);
  void carry_out(const cluster::EndSequence& end);
  void carry_out(const cluster::NodeGone& gone);

  void use_lease(const std::string& tenant);
  void renew(const std::string& tenant);
  void read_lease(std::uint64_t life, const std::string& tenant, double demand, double in_use,
                  std::uint64_t wall, int tries);
  void renewed(std::uint64_t life, const std::string& tenant,
               const std::optional<cluster::QuotaLease>& lease);

  void check_homes();
  void check_loads(const cluster::StartRun& start);
  void check_no_node(const std::string& model);

  bool can_take(const std::string& name, const cluster::Router::Node& node,
                const std::string& model) const;
  void note_held(const std::string& tenant);
  void note_usage();

  World& world_;
  Cluster cluster_;
  std::size_t index_;
  double offset_;  // of its steady clock
  double skew_;    // of its wall clock
  bool checks_loads_;
  std::uint64_t life_ = 0;
  double up_since_ = 0;
  std::optional<cluster::Router> core_;
  cluster::Actions actions_;
  std::map<std::size_t, std::uint64_t> epochs_;  // of connected nodes
  std::uint64_t last_epoch_ = 0;
  std::map<std::string, Holding> holdings_;  // by tenant
  struct Placed {
    std::size_t node = 0;  // that has it now
    double at = 0;
    int deaths = 0;  // of nodes that had it and were heard of
  };
  std::map<cluster::SequenceId, Placed> placed_;
  std::map<std::size_t, double> heard_;  // of nodes, when last
  double client_last_ = 0;
  std::uint64_t generated_ = 0, tokens_ = 0;
  std::map<std::string, std::string> homes_;  // of some tenants, the first node
  std::set<std::string> ready_;               // when homes_ were looked at
};

}  // namespace plimsoll::simulation
