#include "cli/scorecard/memory_log.h"

#include <algorithm>

namespace plimsoll::cli::scorecard {

void Gauge::add(double at_s, double value) {
  if (!any_) {
    first_ = value;
    peak_ = value;
    any_ = true;
  } else {
    integral_ += last_ * (at_s - at_s_);
  }
  at_s_ = at_s;
  last_ = value;
  peak_ = std::max(peak_, value);
}

void MemoryLog::add(double at_s, const client::Memory& memory, std::uint64_t nodes_used_bytes) {
  if (samples_++ == 0) first_s_ = at_s;
  last_s_ = at_s;
  rss_.add(at_s, static_cast<double>(memory.rss_bytes));
  anonymous_.add(at_s, static_cast<double>(memory.anonymous_bytes));
  nodes_used_.add(at_s, static_cast<double>(nodes_used_bytes));
  unattributed_.add(at_s, static_cast<double>(memory.unattributed_bytes));

  std::map<std::string, double> components;
  std::map<std::string, std::pair<double, double>> tenants;  // all, kv
  for (const auto& row : memory.rows) {
    if (row.kind == "mapped") continue;
    const auto bytes = static_cast<double>(row.bytes);
    components[row.component] += bytes;
    auto& tenant = tenants[row.tenant.empty() ? "shared" : row.tenant];
    tenant.first += bytes;
    if (row.component == "kv") tenant.second += bytes;
  }
  // Who has no row now has nothing now; who had none before had nothing.
  for (const auto& [name, gauge] : components_) components.try_emplace(name, 0);
  for (const auto& [name, gauge] : tenants_) tenants.try_emplace(name, 0, 0);
  for (const auto& [name, bytes] : components) components_[name].add(at_s, bytes);
  for (const auto& [name, bytes] : tenants) {
    tenants_[name].bytes.add(at_s, bytes.first);
    tenants_[name].kv.add(at_s, bytes.second);
  }
}

}  // namespace plimsoll::cli::scorecard
