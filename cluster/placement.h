// Which node serves a tenant: weighted rendezvous hashing (Schindelhauer & Schomaker 2005), so that
// a tenant's prefixes stay where they are cached and a node's arrival or departure moves only the
// tenants that it gains or held; with bounded loads (Mirrokni et al. 2018), so that one large
// tenant spills over to its next node instead of queueing on its first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace plimsoll::cluster {

struct PlacementNode {
  std::string_view name;   // stable: it is what gets hashed
  double weight = 1.0;     // relative capacity, > 0
  std::uint32_t load = 0;  // sequences it holds now
};

// The index of the node that takes `tenant`'s next sequences, or nothing if there is no node. A
// node takes no more than `load_bound` times its share of all sequences (> 1).
std::optional<std::size_t> place(std::string_view tenant, std::span<const PlacementNode> nodes,
                                 double load_bound = 1.25);

}  // namespace plimsoll::cluster
