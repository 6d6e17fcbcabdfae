// A model of a node: it computes at a rate what the engine's own planner gives out, sends
// heartbeats, and can crash, freeze, hang, be slow, drain, and come back.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/batching/planner.h"
#include "tests/cluster/simulation/messages.h"
#include "tests/cluster/simulation/network.h"
#include "tests/cluster/simulation/world.h"

namespace plimsoll::simulation {

class Node;

// The other end of a node's links.
class Peer {
 public:
  virtual ~Peer() = default;
  virtual void hello(Node& node, std::uint64_t life) = 0;
  virtual void report(Node& node, std::uint64_t epoch, const Report& report) = 0;
  virtual void events(Node& node, std::uint64_t epoch, const std::vector<RunEvent>& events) = 0;
  virtual void closed(Node& node, std::uint64_t epoch) = 0;
};

struct NodeConfig {
  std::size_t index = 0;
  std::string name;
  double weight = 1;
  double step_s = 0.03;
  std::uint32_t places = 16;     // sequences in one step
  std::uint32_t blocks = 512;    // of KV, of 16 tokens
  std::uint32_t most_runs = 64;  // waiting and running; more are refused
  std::vector<std::string> models;
};

class Node {
 public:
  Node(World& world, Network& network, std::vector<Peer*> routers, NodeConfig config);

  const NodeConfig& config() const { return config_; }
  bool up() const { return life_ % 2 == 1; }
  bool healthy() const { return up() && !frozen_ && !hung_ && !draining_; }
  double well_since() const { return well_since_; }
  // It is up and not frozen, or was within these seconds.
  bool answered_within(double seconds) const {
    return (up() && !frozen_) || world_.now() - silent_since_ < seconds;
  }
  std::size_t runs() const { return runs_.size(); }
  std::uint64_t life() const { return life_; }
  const std::map<std::string, std::uint64_t>& served() const { return served_; }

  // ---- what happens to it
  void boot();
  void crash(bool machine);  // a process's connections are closed; a machine's say nothing
  void freeze();
  void thaw();
  bool hung() const { return hung_; }
  void hang() { hung_ = true; }  // its engine does no step; the rest of it works
  void unhang();
  void slow_down(double times) { slow_ = times; }
  bool drain(double deadline_s);  // false: it cannot hear it now

  // ---- what routers send; nothing from a connection that is not the current one is heard
  void welcome(std::size_t router, std::uint64_t life, std::uint64_t epoch);
  void start(std::size_t router, std::uint64_t epoch, Start start);
  void cancel(std::size_t router, std::uint64_t epoch, const std::vector<cluster::RunId>& runs);
  void add_credit(std::size_t router, std::uint64_t epoch, cluster::RunId run,
                  std::uint32_t tokens);
  void refused(std::size_t router, std::uint64_t epoch);
  void heard(std::size_t router, std::uint64_t epoch);

 private:
  struct Working {
    PlannerSequence view;
    std::size_t router = 0;
    cluster::RunId id = 0;
    std::string tenant;
    std::uint64_t seed = 0;
    std::uint32_t length = 0, emitted = 0, prompt_tokens = 0;
    std::uint64_t credit = 0;
    double deadline = 0;
  };
  struct Connection {
    std::uint64_t epoch = 0;  // 0: none
    double heard = 0, said_hello = -1e9, next_try = 0, backoff = 0.1;
  };
  struct Tenant {
    std::uint32_t index = 0, runs = 0;
  };
  using Events = std::map<std::size_t, std::vector<RunEvent>>;  // by router

  bool later(std::function<void()> message);  // frozen: keeps it until it thaws
  void tick(std::uint64_t life);
  void disconnect(std::size_t router);
  void schedule_step();
  void step(std::uint64_t life);
  void finish(std::size_t run, Finish why, Events& events);
  void send(const Events& events);
  void check_deadlines(Events& events);

  World& world_;
  Network& network_;
  std::vector<Peer*> routers_;
  NodeConfig config_;

  std::uint64_t life_ = 0;  // odd: it is up
  bool frozen_ = false, hung_ = false, draining_ = false, stepping_ = false;
  double slow_ = 1, drain_at_ = 0, well_since_ = 0, silent_since_ = 0;
  std::deque<std::function<void()>> inbox_;
  std::vector<Connection> connections_;  // by router
  std::vector<Working> runs_;            // in order of arrival
  std::uint64_t arrivals_ = 0, steps_ = 0;
  Planner planner_;
  std::map<std::string, Tenant> tenants_;        // since it booted
  std::map<std::string, std::uint64_t> served_;  // tokens, by tenant, for the checks
};

}  // namespace plimsoll::simulation
