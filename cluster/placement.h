// Which nodes serve a tenant. A tenant has a home set: the first nodes of its weighted rendezvous
// order (Schindelhauer & Schomaker 2005), so that its prefixes stay where they are cached and a
// node's arrival or departure moves only the tenants that it gains or held. Within the home set the
// node that holds most of the prompt's prefix wins, as long as it is not above its bounded load
// (Mirrokni et al. 2018); a home set that is full spills over to the next nodes of the order. Where
// sequences wait, a tenant's own ones are spread evenly: a node divides its service
// fairly between those who are there, so a tenant that stayed at home would get less than an equal
// one that is everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace plimsoll::cluster {

struct PlacementNode {
  std::string_view name;   // stable: it is what gets hashed
  double weight = 1.0;     // relative capacity, > 0
  std::uint32_t load = 0;  // sequences it holds now
  double factor = 1.0;     // of its weight, for a slow node: changes its load bound, not the order
  std::uint32_t prefix_blocks = 0;  // of the prompt, thought to be cached there (of the home set)
  std::uint32_t waiting = 0;        // of its load, not started yet
  std::uint32_t own = 0;            // of its load, the tenant's
};

// How many nodes a tenant's home set has: its part of all weights times the nodes, at least
// `least` (1; 2 for a guaranteed tenant, so that losing one node leaves a warm one).
std::size_t home_size(double tenant_weight, double all_weights, std::size_t nodes,
                      std::size_t least = 1);

// The indices of the tenant's first `size` nodes, best first. Depends on names and weights only.
std::vector<std::size_t> home_set(std::string_view tenant, std::span<const PlacementNode> nodes,
                                  std::size_t size);

// The index of the node that takes the tenant's next sequences, or nothing if there is no node. A
// node takes no more than `load_bound` times its share of all sequences (> 1). Of nodes of the home
// set that hold as much of the prefix, the least loaded one takes it: all of them stay warm.
std::optional<std::size_t> place(std::string_view tenant, std::span<const PlacementNode> nodes,
                                 std::size_t home_size = 1, double load_bound = 1.25);

}  // namespace plimsoll::cluster
