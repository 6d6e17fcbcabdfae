#include "cli/scorecard/memory_log.h"

#include <algorithm>

namespace plimsoll::cli::scorecard {

void Gauge::add(double at_s, double value) {
  if (!any_) {
    first_ = value;
    peak_ = value;
    begin_s_ = at_s;
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
  rss_.add(at_s, static_cast<double>(memory.rss_bytes));
  anonymous_.add(at_s, static_cast<double>(memory.anonymous_bytes));
  if (nodes_used_bytes > 0) nodes_used_.add(at_s, static_cast<double>(nodes_used_bytes));
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
  for (const auto& [name, bytes] : components) {
    const auto [gauge, is_new] = components_.try_emplace(name);
    if (is_new && samples_ > 1) gauge->second.add(first_s_, 0);
    gauge->second.add(at_s, bytes);
  }
  for (const auto& [name, bytes] : tenants) {
    const auto [tenant, is_new] = tenants_.try_emplace(name);
    if (is_new && samples_ > 1) tenant->second.add(first_s_, 0, 0);
    tenant->second.add(at_s, bytes.first, bytes.second);
  }
}

}  // namespace plimsoll::cli::scorecard
