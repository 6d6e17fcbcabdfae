// Which nodes are alive, by their heartbeats and by the work they do, and which are slow.
//
// A node is given up when nothing came from it for `timeout`, or when it holds work and did not do
// a step of it for `stuck`: a node that hangs is as dead as one that left. A node is slow when its
// answers or its first tokens take clearly longer than its peers' (median and median absolute
// deviation over nodes): it gets a smaller part of what is new.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cluster/pressure.h"
#include "cluster/quota.h"  // Time

namespace plimsoll::cluster {

struct HealthConfig {
  Time heartbeat{0.2};
  Time timeout{1.0};           // without a word
  Time stuck{10.0};            // with work and without a step
  double slow_mads = 4;        // deviations above the median at which a node counts as slow
  double slow_floor_s = 0.02;  // differences below this are noise
  double slow_weight = 0.25;   // least factor on a slow node's weight
};

struct Beat {
  std::uint64_t steps = 0;      // engine steps done in all, grows
  std::uint32_t sequences = 0;  // that it holds
  std::uint32_t waiting = 0;    // of them, not started yet
  double round_trip_s = 0;      // of the last probe; 0 if not known
  Level pressure = Level::green;
};

class Health {
 public:
  explicit Health(HealthConfig config = {}) : config_(config) {}

  void join(const std::string& node, Time now);  // again, after it was given up: starts afresh
  void leave(const std::string& node);
  void beat(const std::string& node, const Beat& beat, Time now);
  void heard(const std::string& node, Time now);  // any other word from it
  // How long a request waited for its first token there, net of what its length explains.
  void latency(const std::string& node, double seconds);

  struct Verdict {
    std::string node;
    std::string reason;  // "no heartbeat for 1.2 s", "holds 12 sequences and did no step for 10 s"
  };
  std::vector<Verdict> dead(Time now) const;
  // 1 for a node like its peers, down to slow_weight: multiplies its weight in placement.
  double factor(const std::string& node) const;
  std::optional<Time> last_heard(const std::string& node) const;

 private:
  enum Signal : std::uint8_t { first_token, round_trip };
  struct Average {
    double seconds = 0;
    bool known = false;
    std::uint32_t age = 0;  // heartbeats since the last sample
  };
  struct Node {
    Time heard{0};
    Time progress{0};
    std::uint64_t steps = 0;
    std::uint32_t sequences = 0;
    Average averages[2]{};  // by signal
  };
  void sample(Node& node, Signal signal, double seconds);

  HealthConfig config_;
  std::map<std::string, Node> nodes_;
  // By signal: above which a node is slow, and the samples since that was computed.
  double limits_[2] = {1e300, 1e300};
  std::size_t samples_[2] = {0, 0};
};

}  // namespace plimsoll::cluster
