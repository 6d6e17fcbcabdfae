#include "cluster/admission.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace plimsoll::cluster {

Admission::Admission(std::map<std::string, TenantLimits> tenants) {
  for (auto& [name, limits] : tenants) {
    tenants_[name] = {.limits = limits, .tokens = std::max(1.0, limits.burst)};
  }
}

AdmissionDecision Admission::admit(const std::string& tenant, std::uint32_t sequences, Time now) {
  using Verdict = AdmissionDecision::Verdict;
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end()) return {Verdict::unknown_tenant, {}};
  Tenant& t = it->second;
  if (sequences > t.limits.sequences || t.sequences > t.limits.sequences - sequences) {
    return {Verdict::sequences, {}};
  }
  if (t.limits.requests_per_second > 0) {
    const double grown = (now - t.filled).count() * t.limits.requests_per_second;
    t.tokens = std::min(std::max(1.0, t.limits.burst), t.tokens + std::max(0.0, grown));
    t.filled = std::max(t.filled, now);
    if (t.tokens < 1) {
      const double seconds = (1 - t.tokens) / t.limits.requests_per_second;
      return {Verdict::rate,
              std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(seconds * 1000)))};
    }
    t.tokens -= 1;
  }
  t.sequences += sequences;
  return {};
}

void Admission::release(const std::string& tenant, std::uint32_t sequences) {
  const auto it = tenants_.find(tenant);
  assert(it != tenants_.end() && it->second.sequences >= sequences);
  it->second.sequences -= sequences;
}

std::uint32_t Admission::sequences(const std::string& tenant) const {
  const auto it = tenants_.find(tenant);
  return it == tenants_.end() ? 0 : it->second.sequences;
}

std::uint32_t Admission::limit(const std::string& tenant) const {
  const auto it = tenants_.find(tenant);
  return it == tenants_.end() ? 0 : it->second.limits.sequences;
}

}  // namespace plimsoll::cluster
