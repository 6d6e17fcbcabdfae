#include "cluster/quota.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace plimsoll::cluster {
namespace {

constexpr double demand_seconds = 5;  // over which demand is averaged
constexpr double whole = 1e-6;        // of a token: rounding of refills
constexpr std::chrono::milliseconds guess{1000};

std::chrono::milliseconds ceil_ms(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(seconds * 1000 - 1e-6)));
}

double decay(Time elapsed) { return std::exp(-elapsed.count() / demand_seconds); }

// This router's part of a cap on what is held at once. Who holds nothing may start one request.
double part_of(double limit, double share, double held, double asked) {
  const double part = std::max(1.0, std::ceil(limit * share - whole));
  return held == 0 && asked <= limit ? std::max(part, asked) : part;
}

}  // namespace

const char* reason_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::admitted: return "";
    case Verdict::unknown_tenant: return "tenant_unknown";
    case Verdict::suspended: return "tenant_suspended";
    case Verdict::model: return "tenant_model";
    case Verdict::prompt_length: return "tenant_prompt_length";
    case Verdict::prompt_repeats: return "prompt_repeats";
    case Verdict::generation_cap: return "tenant_generation_cap";
    case Verdict::token_budget: return "tenant_token_budget";
    case Verdict::lease: return "tenant_lease";
    case Verdict::sequences: return "tenant_sequences";
    case Verdict::kv_bytes: return "tenant_kv_bytes";
    case Verdict::requests_rate: return "tenant_requests_rate";
    case Verdict::prompt_rate: return "tenant_prompt_rate";
    case Verdict::generated_rate: return "tenant_generated_rate";
  }
  return "";
}

double Quotas::capacity(const State& state, const Bucket& bucket, double share) {
  return std::max(1.0, bucket.rate * state.tenant.quota.burst_seconds) * share;
}

void Quotas::update(State& state, Time now) {
  if (now <= state.updated) return;
  const double refill = std::max(0.0, (std::min(now, state.lease_end) - state.updated).count());
  const double faded = decay(now - state.updated);
  for (Bucket* bucket : {&state.requests, &state.prompt, &state.generated}) {
    const double grown = bucket->level + refill * bucket->rate * state.share;
    bucket->level = std::min(grown, capacity(state, *bucket, state.share));
    bucket->asked *= faded;
  }
  state.wanted *= faded;
  state.updated = now;
}

void Quotas::set_tenant(const Tenant& tenant, Time now) {
  State& state = tenants_[tenant.name];
  update(state, now);
  state.tenant = tenant;
  state.removed = false;
  const Quota& quota = tenant.quota;
  for (const auto& [bucket, rate] :
       {std::pair(&state.requests, quota.requests_per_second),
        std::pair(&state.prompt, quota.prompt_tokens_per_second),
        std::pair(&state.generated, quota.generated_tokens_per_second)}) {
    const bool is_new = bucket->rate <= 0;
    bucket->rate = std::max(0.0, rate);
    const double full = capacity(state, *bucket, state.share);
    bucket->level = is_new ? full : std::min(bucket->level, full);
    if (bucket->rate <= 0) bucket->asked = 0;
  }
}

void Quotas::remove_tenant(const std::string& name) {
  const auto it = tenants_.find(name);
  if (it == tenants_.end()) return;
  it->second.removed = true;
  drop_if_empty(name);
}

void Quotas::drop_if_empty(const std::string& tenant) {
  const auto it = tenants_.find(tenant);
  const State& state = it->second;
  if (state.removed && state.sequences == 0 && state.kv_bytes == 0) tenants_.erase(it);
}

const Tenant* Quotas::find(const std::string& name) const {
  const auto it = tenants_.find(name);
  return it == tenants_.end() || it->second.removed ? nullptr : &it->second.tenant;
}

void Quotas::set_share(const std::string& tenant, double share, Time expires, Time now) {
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end()) return;
  State& state = it->second;
  update(state, now);
  state.share = share > 0 ? std::min(share, 1.0) : 0.0;
  state.lease_end = expires;
  const bool starts = !state.started && state.share > 0;
  for (Bucket* bucket : {&state.requests, &state.prompt, &state.generated}) {
    const double full = capacity(state, *bucket, state.share);
    bucket->level = starts ? full : std::min(bucket->level, full);
  }
  state.started = state.started || starts;
}

bool Quotas::has_share(const std::string& tenant, Time now) const {
  const auto it = tenants_.find(tenant);
  return it != tenants_.end() && it->second.share > 0 && now < it->second.lease_end;
}

// Of the caps on what is held at once, the part that is taken here.
double Quotas::held(const State& state) {
  const Quota& quota = state.tenant.quota;
  double part = static_cast<double>(state.sequences) / std::max(quota.sequences, 1U);
  if (quota.kv_bytes > 0) {
    part =
        std::max(part, static_cast<double>(state.kv_bytes) / static_cast<double>(quota.kv_bytes));
  }
  return part;
}

double Quotas::in_use(const std::string& tenant, Time now) const {
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end()) return 0;
  const State& state = it->second;
  return std::max(now < state.lease_end ? state.share : 0.0, held(state));
}

RateState Quotas::rate_state(const State& state, const Bucket& bucket) {
  if (bucket.rate <= 0) return {};
  if (state.share <= 0) return {capacity(state, bucket, 1), 0, 0};
  const double full = capacity(state, bucket, state.share);
  return {full, std::max(0.0, bucket.level), (full - bucket.level) / (bucket.rate * state.share)};
}

Decision Quotas::decide(State& state, const Ask& ask, Time now) const {
  const Quota& quota = state.tenant.quota;
  const RequestCaps one = caps_of(state.tenant, tiers_);
  if (state.tenant.suspended) return {Verdict::suspended};
  if (!quota.models.empty() && std::ranges::find(quota.models, ask.model) == quota.models.end()) {
    return {Verdict::model};
  }
  const auto over = [](Verdict verdict, double limit, double asked) {
    return Decision{.verdict = verdict, .limit = limit, .asked = asked};
  };
  if (one.prompt_tokens > 0 && ask.prompt_tokens > one.prompt_tokens) {
    return over(Verdict::prompt_length, one.prompt_tokens, ask.prompt_tokens);
  }
  if (ask.repeats && state.tenant.tier != Tier::guaranteed) {
    return over(Verdict::prompt_repeats, 0, ask.prompt_tokens);
  }
  if (one.generated_tokens > 0 && ask.generated_tokens > one.generated_tokens) {
    return over(Verdict::generation_cap, one.generated_tokens, ask.generated_tokens);
  }
  const double most_generated = static_cast<double>(ask.sequences) * ask.generated_tokens;
  if (one.request_tokens > 0 && ask.prompt_tokens + most_generated > one.request_tokens) {
    return over(Verdict::token_budget, one.request_tokens, ask.prompt_tokens + most_generated);
  }

  // What is refused below is asked for all the same, and a larger share may be the answer.
  const auto kv_limit =
      quota.kv_bytes + (quota.kv_bytes > 0 && ask.may_burst ? quota.burst_bytes : 0);
  struct Cap {
    Verdict verdict;
    double limit, held, asked;
  };
  const Cap caps[] = {{Verdict::sequences, static_cast<double>(quota.sequences),
                       static_cast<double>(state.sequences), static_cast<double>(ask.sequences)},
                      {Verdict::kv_bytes, static_cast<double>(kv_limit),
                       static_cast<double>(state.kv_bytes), static_cast<double>(ask.kv_bytes)}};
  struct Rate {
    Verdict verdict;
    Bucket* bucket;
    double asked, needed;
  };
  const Rate rates[] = {
      {Verdict::requests_rate, &state.requests, 1, 1},
      {Verdict::prompt_rate, &state.prompt, static_cast<double>(ask.prompt_tokens),
       static_cast<double>(ask.prompt_tokens)},
      {Verdict::generated_rate, &state.generated, most_generated, 1},
  };
  for (const Cap& cap : caps) {
    if (cap.limit > 0) state.wanted = std::max(state.wanted, (cap.held + cap.asked) / cap.limit);
  }
  for (const Rate& rate : rates) {
    const bool counts_as_it_comes = rate.bucket == &state.generated && rate.bucket->level >= 1;
    if (rate.bucket->rate <= 0 || counts_as_it_comes) continue;
    rate.bucket->asked += rate.asked / (rate.bucket->rate * demand_seconds);
  }

  if (state.share <= 0 || now >= state.lease_end) {
    return {.verdict = Verdict::lease, .retry_after = guess};
  }
  for (const Cap& cap : caps) {
    const double part = part_of(cap.limit, state.share, cap.held, cap.asked);
    if (cap.limit <= 0 || cap.held + cap.asked <= part) continue;
    const auto retry = cap.asked > cap.limit ? std::chrono::milliseconds(0) : guess;
    return {cap.verdict, retry, part, cap.held, cap.asked};
  }
  Decision decision;  // of the buckets that are empty, the one that takes longest to fill
  for (const Rate& rate : rates) {
    const Bucket& bucket = *rate.bucket;
    if (bucket.rate <= 0) continue;
    const double full = capacity(state, bucket, state.share);
    const bool never = rate.needed > capacity(state, bucket, 1);
    const double missing = std::min(rate.needed, full) - bucket.level;
    if (!never && missing <= whole) continue;
    // Once the lease ends, another share counts.
    const double wait = std::min(missing / (bucket.rate * state.share),
                                 std::max(1.0, (state.lease_end - now).count()));
    const auto retry = never ? std::chrono::milliseconds(0)
                             : std::max(std::chrono::milliseconds(1), ceil_ms(wait));
    const Decision refused{rate.verdict, retry, full, full - bucket.level, rate.needed};
    if (never) return refused;
    if (retry > decision.retry_after) decision = refused;
  }
  if (decision.verdict != Verdict::admitted) return decision;
  state.sequences += ask.sequences;
  state.kv_bytes += ask.kv_bytes;
  state.requests.level -= 1;
  state.prompt.level -= ask.prompt_tokens;
  return decision;
}

Decision Quotas::admit(const std::string& tenant, const Ask& ask, Time now) {
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end() || it->second.removed) return {Verdict::unknown_tenant};
  State& state = it->second;
  update(state, now);
  state.asked = now;
  Decision decision = decide(state, ask, now);
  decision.requests = rate_state(state, state.requests);
  decision.prompt_tokens = rate_state(state, state.prompt);
  decision.generated_tokens = rate_state(state, state.generated);
  return decision;
}

void Quotas::release(const std::string& tenant, std::uint32_t sequences, std::uint64_t kv_bytes) {
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end()) return;
  State& state = it->second;
  state.sequences -= std::min(sequences, state.sequences);
  state.kv_bytes -= std::min(kv_bytes, state.kv_bytes);
  drop_if_empty(tenant);
}

void Quotas::generated(const std::string& tenant, std::uint32_t tokens, Time now) {
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end()) return;
  State& state = it->second;
  update(state, now);
  Bucket& bucket = state.generated;
  bucket.level -= tokens;
  if (bucket.rate > 0) bucket.asked += tokens / (bucket.rate * demand_seconds);
}

std::uint32_t Quotas::sequences(const std::string& tenant) const {
  const auto it = tenants_.find(tenant);
  return it == tenants_.end() ? 0 : it->second.sequences;
}

Time Quotas::last_asked(const std::string& tenant) const {
  const auto it = tenants_.find(tenant);
  return it == tenants_.end() ? State().asked : it->second.asked;
}

double Quotas::demand(const std::string& tenant, Time now) const {
  const auto it = tenants_.find(tenant);
  if (it == tenants_.end()) return 0;
  const State& state = it->second;
  const double lately =
      std::max({state.wanted, state.requests.asked, state.prompt.asked, state.generated.asked});
  return std::max(lately * decay(std::max(Time(0), now - state.updated)), held(state));
}

}  // namespace plimsoll::cluster
