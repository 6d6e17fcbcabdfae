#include "actors/node_cache.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <utility>

namespace plimsoll {
namespace {

using std::chrono::milliseconds;
using storage::CacheKind;

static_assert(std::tuple_size_v<decltype(cluster::CachePolicy::ttl_ms)> ==
              storage::cache_kind_count);

std::optional<milliseconds> ttl_of(const cluster::CachePolicy& policy, std::size_t kind) {
  if (!policy.ttl_ms[kind]) return std::nullopt;
  return milliseconds(*policy.ttl_ms[kind]);
}

bool is_untouched(const storage::CacheCounts& counts) {
  return (counts.bytes | counts.entries | counts.hits_total | counts.misses_total |
          counts.evicted_total | counts.expired_total | counts.purged_total | counts.damaged_total |
          counts.refused_total | counts.dropped_total | counts.accepted_bytes_total) == 0;
}

}  // namespace

NodeCache::NodeCache(std::shared_ptr<storage::DiskCache> cache, const CacheSettings& settings)
    : cache_(std::move(cache)), tenant_bytes_(settings.tenant_bytes), ttl_(settings.ttl) {}

CacheAnswer NodeCache::answer(const CacheCall& call) {
  return std::visit([this](const auto& what) { return run(what); }, call);
}

CacheAnswer NodeCache::run(const LookAtCache&) {
  const auto stats = cache_->stats();
  CacheAnswer answer;
  auto& report = answer.report;
  report.bytes = stats.bytes;
  report.limit_bytes = stats.limit_bytes;
  report.buffered_bytes = stats.buffered_bytes;
  report.index_bytes = stats.index_bytes;
  report.table_bytes = stats.table_bytes;
  report.trouble = stats.trouble;
  const std::lock_guard lock(mutex_);
  for (const auto& [tenant, kinds] : stats.tenants) {
    const auto found = policies_.find(tenant.get());
    const auto policy = found != policies_.end() ? found->second : cluster::CachePolicy{};
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      if (is_untouched(kinds[i])) continue;
      CacheRow row;
      row.tenant = tenant.get();
      row.kind = static_cast<CacheKind>(i);
      row.quota_bytes = policy.bytes.value_or(tenant_bytes_);
      row.ttl = ttl_of(policy, i).value_or(set_ttl_[i].value_or(ttl_));
      row.counts = kinds[i];
      report.rows.push_back(std::move(row));
    }
  }
  return answer;
}

CacheAnswer NodeCache::run(const storage::CachePurge& what) { return purge(what, {}); }

CacheAnswer NodeCache::purge(const storage::CachePurge& what,
                             const std::vector<std::shared_future<void>>& after,
                             milliseconds deadline) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + deadline;
  for (const auto& each : after) {
    if (each.wait_until(until) == std::future_status::ready) continue;
    return refusal(
        Error(ErrorCode::deadline_exceeded,
              "an engine of this node has not given up what it holds in memory in " +
                  std::to_string(deadline.count()) +
                  " ms: nothing was removed from the disk; purge again when no model is being "
                  "loaded or unloaded")
            .retry_after(1000));
  }
  const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now());
  const auto purged = cache_->purge(what, std::max(left, milliseconds(0)));
  if (!purged) return refusal(purged.error());
  CacheAnswer answer;
  answer.purged_entries = *purged;
  return answer;
}

CacheAnswer NodeCache::run(const SetCacheTtl& order) {
  const std::lock_guard lock(mutex_);
  if (auto set = cache_->set_ttl(order.kind, order.ttl.value_or(ttl_)); !set) {
    return refusal(std::move(set.error()));
  }
  set_ttl_[static_cast<std::size_t>(order.kind)] = order.ttl;
  return {};
}

void NodeCache::set_policies(const CachePolicies& policies) {
  const std::lock_guard lock(mutex_);
  const auto apply = [this](const std::string& name, const cluster::CachePolicy& policy) {
    const TenantId tenant(name);
    cache_->set_quota(tenant, policy.bytes);
    for (std::size_t i = 0; i < policy.ttl_ms.size(); ++i) {
      const auto set = cache_->set_ttl(static_cast<CacheKind>(i), tenant, ttl_of(policy, i));
      if (!set) spdlog::error("event=cache_ttl_refused error=\"{}\"", to_string(set.error()));
    }
  };
  for (const auto& [name, policy] : policies_) {
    if (!policies.contains(name)) apply(name, {});
  }
  for (const auto& [name, policy] : policies) {
    const auto known = policies_.find(name);
    if (known == policies_.end() || known->second != policy) apply(name, policy);
  }
  policies_ = policies;
}

}  // namespace plimsoll
