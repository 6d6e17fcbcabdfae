// Whether a tenant may start more work, on one router of possibly several.
//
// Rates are token buckets. Each router holds a leased share of every tenant's rates and caps
// (cluster/lease.h), so that all routers together never give more than the quota; a router whose
// lease ran out gives nothing. Generated tokens are debited as they come: the bucket may go
// negative, and then the next request waits until it is paid back.
//
// How far off the routers together may be: a share that grows brings no tokens with it, only a
// faster refill, so over any time no more gets through than the quota's burst and rate, plus one
// full bucket of its first share for a router that starts, plus one request a router that is larger
// than its share of a bucket (it waits for a full bucket, which then goes into debt). Caps on what
// is held at once hold over all routers but for rounding, for who holds none, and for what a router
// still runs that was cut off from the store until its lease ran out.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "cluster/tenant.h"

namespace plimsoll::cluster {

// Since any fixed moment of this process; never runs backwards.
using Time = std::chrono::duration<double>;

// What a request asks for.
struct Ask {
  std::string model{};
  std::uint32_t sequences = 1;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated_tokens = 0;  // at most, of each sequence
  std::uint64_t kv_bytes = 0;          // at its peak, of all sequences; 0 if not known
  bool repeats = false;                // its prompt, endlessly; see prompt_shape.h
  bool may_burst = false;              // into burst_bytes: no node is short of memory
};

enum class Verdict : std::uint8_t {
  admitted,
  unknown_tenant,
  suspended,
  model,           // not among those allowed
  prompt_length,   // prompt_tokens over the quota of one request
  prompt_repeats,  // endlessly; only the guaranteed tier may
  generation_cap,  // generated_tokens over the quota of one sequence
  token_budget,    // prompt and all that is to be generated over the quota of one request
  lease,           // this router holds no share of the quota at present
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
  // When to come again: to the millisecond with the rate verdicts (as far as the lease reaches), a
  // guess with `lease` and the caps. 0: never, the request is larger than the whole limit, or of a
  // kind that is refused.
  std::chrono::milliseconds retry_after{0};
  double limit = 0;  // the limit that was hit (this router's part), and what is taken of it
  double used = 0;
  double asked = 0;
  RateState requests{}, prompt_tokens{}, generated_tokens{};  // as they are after this decision
};

class Quotas {
 public:
  // A tenant that is new, or whose record changed. What it holds stays; buckets keep their level.
  // A new one has no share yet.
  void set_tenant(const Tenant& tenant, Time now);
  void remove_tenant(const std::string& name);  // what it holds is forgotten when released
  const Tenant* find(const std::string& name) const;

  // What one request of a tenant may be that has no such limit of its own.
  void set_tiers(const TierCaps& tiers) { tiers_ = tiers; }
  const TierCaps& tiers() const { return tiers_; }

  // This router's part of every limit of the tenant, until `expires`. Without leases in use (one
  // router), give share 1 and no expiry. A share also scales `sequences` and `kv_bytes`, rounded
  // up; who holds none may start one request within the whole limit while the lease holds.
  void set_share(const std::string& tenant, double share, Time expires, Time now);
  static constexpr Time no_expiry{1e300};
  bool has_share(const std::string& tenant, Time now) const;

  // All of it, or nothing. What was admitted is given back with release().
  Decision admit(const std::string& tenant, const Ask& ask, Time now);
  void release(const std::string& tenant, std::uint32_t sequences, std::uint64_t kv_bytes);
  void generated(const std::string& tenant, std::uint32_t tokens, Time now);

  std::uint32_t sequences(const std::string& tenant) const;
  // When it last asked for anything here, admitted or not; long ago if it never did.
  Time last_asked(const std::string& tenant) const;
  // The part of the quota that this router acts on: its share while the lease holds, at least what
  // the tenant holds here. A renewal of the lease gives none of it up.
  double in_use(const std::string& tenant, Time now) const;
  // What the tenant asked for lately on this router, as a share of its quota (may exceed 1): the
  // largest over its limits, averaged over some seconds. Leases follow it.
  double demand(const std::string& tenant, Time now) const;

 private:
  struct Bucket {
    double rate = 0;  // of the whole quota; 0: no limit
    double level = 0;
    double asked = 0;  // of the whole quota's rate, lately
  };
  struct State {
    Tenant tenant;
    bool removed = false;  // but it still holds something
    double share = 0;
    Time lease_end{0};
    bool started = false;  // it has had a share: buckets began full, once
    std::uint32_t sequences = 0;
    std::uint64_t kv_bytes = 0;
    double wanted = 0;  // of the caps on what is held at once, lately
    Time asked{-1e300};
    Bucket requests, prompt, generated;
    Time updated{0};  // buckets and averages
  };
  static double capacity(const State& state, const Bucket& bucket, double share);
  static void update(State& state, Time now);
  static double held(const State& state);
  static RateState rate_state(const State& state, const Bucket& bucket);
  Decision decide(State& state, const Ask& ask, Time now) const;
  void drop_if_empty(const std::string& tenant);

  std::map<std::string, State> tenants_;
  TierCaps tiers_{};
};

}  // namespace plimsoll::cluster
