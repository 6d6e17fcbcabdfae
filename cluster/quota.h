// Whether a tenant may start more work, on one router of possibly several.
//
// Rates are token buckets. Each router holds a leased share of every tenant's rates and caps
// (cluster/lease.h), so that all routers together never give more than the quota; a router whose
// lease ran out gives nothing. Generated tokens are debited as they come: the bucket may go
// negative, and then the next request waits until it is paid back.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cluster/tenant.h"

namespace plimsoll::cluster {

// Since any fixed moment of this process; never runs backwards.
using Time = std::chrono::duration<double>;

// What a request asks for.
struct Ask {
  std::string model;
  std::uint32_t sequences = 1;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated_tokens = 0;  // at most, of each sequence
  std::uint64_t kv_bytes = 0;          // at its peak, of all sequences; 0 if not known
};

enum class Verdict : std::uint8_t {
  admitted,
  unknown_tenant,
  suspended,
  model,           // not among those allowed
  prompt_length,   // prompt_tokens over the quota of one request
  generation_cap,  // generated_tokens over the quota of one sequence
  sequences,       // too many at once
  kv_bytes,        // too much KV memory at once
  requests_rate,   // one of the three buckets is empty
  prompt_rate,
  generated_rate,
};
// The reason as errors, metrics and usage name it: "tenant_sequences", "tenant_requests_rate", ...
const char* reason_of(Verdict verdict);

// The figures of x-ratelimit-* headers, of one bucket. limit 0: there is none.
struct RateState {
  double limit = 0;      // tokens that may come at once when the bucket is full
  double remaining = 0;  // never negative
  double reset_s = 0;    // until it is full again
};

struct Decision {
  Verdict verdict = Verdict::admitted;
  // With the rate verdicts, when to come again; 0: never, the request is larger than the bucket.
  std::chrono::milliseconds retry_after{0};
  double limit = 0;  // the limit that was hit, and what is taken of it
  double used = 0;
  double asked = 0;
  RateState requests, prompt_tokens, generated_tokens;  // as they are after this decision
};

class Quotas {
 public:
  // A tenant that is new, or whose record changed. What it holds stays; buckets keep their level.
  void set_tenant(const Tenant& tenant, Time now);
  void remove_tenant(const std::string& name);  // what it holds is forgotten when released
  const Tenant* find(const std::string& name) const;

  // This router's part of every limit of the tenant, until `expires`. Without leases in use (one
  // router), give share 1 and no expiry. A share also scales `sequences` and `kv_bytes`, rounded
  // up, never below 1 sequence while the lease holds.
  void set_share(const std::string& tenant, double share, Time expires);
  static constexpr Time no_expiry{1e300};

  // All of it, or nothing. What was admitted is given back with release().
  Decision admit(const std::string& tenant, const Ask& ask, Time now);
  void release(const std::string& tenant, std::uint32_t sequences, std::uint64_t kv_bytes);
  void generated(const std::string& tenant, std::uint32_t tokens, Time now);

  std::uint32_t sequences(const std::string& tenant) const;
  // What the tenant asked for lately on this router, as a share of its quota (may exceed 1): the
  // largest over its limits, averaged over some seconds. Leases follow it.
  double demand(const std::string& tenant, Time now) const;

 private:
  struct Bucket {
    double level = 0;
    Time filled{0};
  };
  struct State {
    Tenant tenant;
    double share = 1;
    Time lease_end = no_expiry;
    std::uint32_t sequences = 0;
    std::uint64_t kv_bytes = 0;
    Bucket requests, prompt, generated;
    double demand = 0;
    Time demand_at{0};
  };
  std::map<std::string, State> tenants_;
};

}  // namespace plimsoll::cluster
