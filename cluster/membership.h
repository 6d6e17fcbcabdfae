// The nodes of a cluster and what may be asked of each. A node that comes back has a higher epoch;
// whatever an older epoch still says is void.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace plimsoll::cluster {

enum class NodeState : std::uint8_t {
  joining,   // known, not serving yet
  ready,     // takes new sequences
  cordoned,  // keeps what it has, takes nothing new; can become ready again
  draining,  // keeps what it has until its deadline, then leaves; never ready again
  lost,      // gone; what it held is replayed elsewhere
};
std::string_view to_string(NodeState state);

enum class NodeEvent : std::uint8_t { join, ready, cordon, uncordon, drain, lose };

struct Member {
  std::uint64_t epoch = 0;
  NodeState state = NodeState::joining;
};

class Membership {
 public:
  // Applies one event. False, and nothing changes, if it comes from an older epoch than the node's
  // own, or if the node's state does not allow it. `join` needs a higher epoch, unless the node is
  // new.
  bool apply(const std::string& node, std::uint64_t epoch, NodeEvent event);

  void forget(const std::string& node);

  const std::map<std::string, Member>& nodes() const { return nodes_; }
  const Member* find(const std::string& node) const;
  std::uint64_t version() const { return version_; }  // grows with every change

 private:
  std::map<std::string, Member> nodes_;
  std::uint64_t version_ = 0;
};

}  // namespace plimsoll::cluster
