// Memory over time as usage: who held how much, for how long, and who had the weights to himself.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "cluster/tenant.h"

namespace plimsoll::cluster {

// What the nodes' ledgers say at a moment, over all nodes; of a node with several routers, a part.
struct HeldMemory {
  std::map<std::string, double> tenant_bytes;   // KV and prefix cache, by tenant
  std::map<std::string, double> weights_bytes;  // by model, as far as they are in memory
};
using ServedTokens = std::map<std::string, std::map<std::string, std::uint64_t>>;

// Of an interval. `kv_bytes`: what sequences hold of tenant_bytes; the rest of it is cache. A
// model's weights are divided by the tokens of the interval; where there were none they are idle.
std::map<std::string, Usage> accrue(const HeldMemory& held,
                                    const std::map<std::string, double>& kv_bytes,
                                    const ServedTokens& served, double seconds);

}  // namespace plimsoll::cluster
