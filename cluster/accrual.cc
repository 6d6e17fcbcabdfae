#include "cluster/accrual.h"

namespace plimsoll::cluster {

std::map<std::string, Usage> accrue(const HeldMemory& held,
                                    const std::map<std::string, double>& kv_bytes,
                                    const ServedTokens& served, double seconds) {
  std::map<std::string, Usage> out;
  for (const auto& [tenant, bytes] : held.tenant_bytes) {
    const auto kv = kv_bytes.find(tenant);
    const double cache = bytes - (kv == kv_bytes.end() ? 0 : kv->second);
    if (cache > 0) out[tenant].cache_byte_seconds += cache * seconds;
  }
  for (const auto& [model, bytes] : held.weights_bytes) {
    double all = 0;
    const auto tenants = served.find(model);
    if (tenants != served.end()) {
      for (const auto& [tenant, tokens] : tenants->second) all += static_cast<double>(tokens);
    }
    if (all == 0) {
      out[idle_tenant].weights_byte_seconds += bytes * seconds;
      continue;
    }
    for (const auto& [tenant, tokens] : tenants->second) {
      if (tokens == 0) continue;
      out[tenant].weights_byte_seconds += bytes * seconds * (static_cast<double>(tokens) / all);
    }
  }
  return out;
}

}  // namespace plimsoll::cluster
