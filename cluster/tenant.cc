#include "cluster/tenant.h"

#include <algorithm>

namespace plimsoll::cluster {

std::string_view to_string(Tier tier) {
  switch (tier) {
    case Tier::guaranteed: return "guaranteed";
    case Tier::standard: return "standard";
    case Tier::best_effort: return "best-effort";
  }
  return "?";
}

RequestCaps caps_of(const Tenant& tenant, const TierCaps& tiers) {
  const Quota& own = tenant.quota;
  const RequestCaps& tier = tiers[static_cast<std::size_t>(tenant.tier)];
  const auto pick = [](std::uint32_t first, std::uint32_t second) {
    return first > 0 ? first : second;
  };
  return {pick(own.prompt_tokens, tier.prompt_tokens),
          pick(own.generated_tokens, tier.generated_tokens),
          pick(own.request_tokens, tier.request_tokens), pick(own.deadline_ms, tier.deadline_ms)};
}

std::uint32_t usual_generation(const RequestCaps& caps, std::uint32_t prompt_tokens,
                               std::uint32_t sequences, std::uint32_t most) {
  if (caps.generated_tokens > 0) most = std::min(most, caps.generated_tokens);
  if (caps.request_tokens == 0) return most;
  const std::uint32_t left = caps.request_tokens - std::min(caps.request_tokens, prompt_tokens);
  return std::min(most, left / std::max(sequences, 1U));
}

Usage& Usage::operator+=(const Usage& other) {
  requests += other.requests;
  prompt_tokens += other.prompt_tokens;
  cached_tokens += other.cached_tokens;
  generated_tokens += other.generated_tokens;
  kv_byte_seconds += other.kv_byte_seconds;
  cache_byte_seconds += other.cache_byte_seconds;
  weights_byte_seconds += other.weights_byte_seconds;
  for (const auto& [reason, count] : other.rejections) rejections[reason] += count;
  return *this;
}

}  // namespace plimsoll::cluster
