// The nodes of the router's bench: in its process, or in others on the same machine.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "actors/network.h"
#include "actors/node.h"
#include "bench/pretend/pretend_engine.h"
#include "bench/router/tally.h"
#include "engine/memory/ledger.h"

namespace plimsoll::router_bench {

std::string node_name(int index);

// The node with that index, out of Options::nodes that step one after the other.
NodeActor start_node(caf::actor_system& system, int index, const Options& options,
                     Emissions& emissions, Ledger& ledger,
                     const std::shared_ptr<pretend::Clock>& clock);

// Processes that each run a part of the nodes. To be made before this process has threads: they are
// forked off.
class NodeProcesses {
 public:
  NodeProcesses(const Options& options, Emissions& emissions);
  ~NodeProcesses() { stop(); }
  NodeProcesses(const NodeProcesses&) = delete;
  NodeProcesses& operator=(const NodeProcesses&) = delete;

  const TlsFiles& router_files() const { return router_files_; }
  void join(std::uint16_t port);  // the router's door
  double stop();                  // the seconds of processor time that they have used

 private:
  struct Process {
    pid_t id;
    int pipe;  // the port goes in; they end when it is closed
  };
  void make_certificates();

  std::vector<Process> processes_;
  std::filesystem::path directory_;  // of the certificates
  TlsFiles router_files_, node_files_;
};

}  // namespace plimsoll::router_bench
