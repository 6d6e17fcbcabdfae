#include "cluster/membership.h"

#include <optional>

namespace plimsoll::cluster {
namespace {

std::optional<NodeState> next(NodeState state, NodeEvent event) {
  using enum NodeState;
  switch (event) {
    case NodeEvent::join: return std::nullopt;  // only with a new epoch
    case NodeEvent::ready: return state == joining ? std::optional(ready) : std::nullopt;
    case NodeEvent::cordon: return state == ready ? std::optional(cordoned) : std::nullopt;
    case NodeEvent::uncordon: return state == cordoned ? std::optional(ready) : std::nullopt;
    case NodeEvent::drain:
      return state == draining || state == lost ? std::nullopt : std::optional(draining);
    case NodeEvent::lose: return state == lost ? std::nullopt : std::optional(lost);
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(NodeState state) {
  switch (state) {
    case NodeState::joining: return "joining";
    case NodeState::ready: return "ready";
    case NodeState::cordoned: return "cordoned";
    case NodeState::draining: return "draining";
    case NodeState::lost: return "lost";
  }
  return "unknown";
}

bool Membership::apply(const std::string& node, std::uint64_t epoch, NodeEvent event) {
  const auto it = nodes_.find(node);
  if (event == NodeEvent::join) {
    if (it != nodes_.end() && epoch <= it->second.epoch) return false;
    nodes_[node] = {epoch, NodeState::joining};
  } else {
    if (it == nodes_.end() || epoch != it->second.epoch) return false;
    const auto state = next(it->second.state, event);
    if (!state) return false;
    it->second.state = *state;
  }
  ++version_;
  return true;
}

void Membership::forget(const std::string& node) {
  if (nodes_.erase(node) != 0) ++version_;
}

const Member* Membership::find(const std::string& node) const {
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? nullptr : &it->second;
}

}  // namespace plimsoll::cluster
