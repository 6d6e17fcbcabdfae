#include "cluster/tenant.h"

namespace plimsoll::cluster {

std::string_view to_string(Tier tier) {
  switch (tier) {
    case Tier::guaranteed: return "guaranteed";
    case Tier::standard: return "standard";
    case Tier::best_effort: return "best-effort";
  }
  return "?";
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
