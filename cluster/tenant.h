// A tenant as the cluster keeps it: its tier, what it may use, and what it has used.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll::cluster {

// What a tenant paid for. A tier's weight is its share of contended service next to the others'
// (virtual token counters), and the size of its home set.
enum class Tier : std::uint8_t { guaranteed, standard, best_effort };
constexpr double weight_of(Tier tier) {
  return tier == Tier::guaranteed ? 4.0 : tier == Tier::standard ? 2.0 : 1.0;
}
std::string_view to_string(Tier tier);  // "guaranteed", "standard", "best-effort"

// Limits over the whole cluster. 0 means no limit, unless said otherwise.
struct Quota {
  double requests_per_second = 0;
  double prompt_tokens_per_second = 0;
  double generated_tokens_per_second = 0;
  double burst_seconds = 6;      // of each rate may come at once
  std::uint32_t sequences = 64;  // waiting and running; never 0
  std::uint64_t kv_bytes = 0;
  std::uint64_t guaranteed_bytes = 0;  // of KV, kept for it whatever others do
  std::uint64_t burst_bytes = 0;       // of KV, over kv_bytes while no node is short of memory
  std::uint64_t cache_bytes = 0;
  std::uint32_t prompt_tokens = 0;     // of one request
  std::uint32_t generated_tokens = 0;  // of one sequence
  std::uint32_t request_tokens = 0;    // of one request, prompt and all that it may generate
  std::uint32_t deadline_ms = 0;       // longest that a request may ask for
  std::vector<std::string> models{};   // allowed; empty: all

  bool operator==(const Quota&) const = default;
};

// What one request may be: the part of a quota that a tier may give too. 0 means no limit.
struct RequestCaps {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated_tokens = 0;  // of one sequence
  std::uint32_t request_tokens = 0;    // prompt and all that it may generate
  std::uint32_t deadline_ms = 0;

  bool operator==(const RequestCaps&) const = default;
};
using TierCaps = std::array<RequestCaps, 3>;  // by Tier

// What of a tenant's may lie in the nodes' caches on disk; absent: as each node is configured.
struct CachePolicy {
  bool no_store = false;                 // nothing that is computed for it
  std::optional<std::uint64_t> bytes{};  // on each node; 0: nothing
  // Of prefixes, embeddings and token lists; 0: none of them.
  std::array<std::optional<std::uint32_t>, 3> ttl_ms{};
  bool operator==(const CachePolicy&) const = default;
};

struct ApiKey {
  std::string sha256;           // lower-case hex; keys themselves are never kept
  std::uint64_t created_s = 0;  // Unix time; 0: it is the configuration's
  std::uint64_t expires_s = 0;  // 0: never. A rotated key stays valid for a while.
  bool operator==(const ApiKey&) const = default;
};

struct Tenant {
  std::string name;  // [a-z0-9][a-z0-9_.-]{0,62}
  Tier tier = Tier::standard;
  Quota quota;
  bool suspended = false;
  bool is_operator = false;
  std::vector<ApiKey> keys;
  // Digest of the configuration's entry that the record was last brought to. Empty: none.
  std::string declared;
  CachePolicy cache{};
  bool operator==(const Tenant&) const = default;
};

// The tenant's own, and where it has none, those of its tier.
RequestCaps caps_of(const Tenant& tenant, const TierCaps& tiers);

// How much a sequence of the request may generate if its client does not say; `most` is what there
// is room for. 0 only where the prompt alone is over the caps.
std::uint32_t usual_generation(const RequestCaps& caps, std::uint32_t prompt_tokens,
                               std::uint32_t sequences, std::uint32_t most);

// Whom weights are billed to while nobody uses them; no tenant can have this name.
inline constexpr const char* idle_tenant = "(idle)";

// What a tenant has used since it was created, or one router's part of it. Grows only.
struct Usage {
  std::uint64_t requests = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;  // of the prompt's, those that were not computed
  std::uint64_t generated_tokens = 0;
  double kv_byte_seconds = 0;       // of its sequences
  double cache_byte_seconds = 0;    // of what it holds besides: its prefixes in the cache
  double weights_byte_seconds = 0;  // its part of its models' weights, by the tokens it was served
  std::map<std::string, std::uint64_t> rejections;  // by reason: "tenant_rate", ...

  Usage& operator+=(const Usage& other);
  bool operator==(const Usage&) const = default;
};

}  // namespace plimsoll::cluster
