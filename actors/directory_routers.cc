// What routers say of themselves and divide among them: who is alive, usage, quota leases.
#include <chrono>
#include <utility>

#include "actors/directory_impl.h"

namespace plimsoll {
namespace {

// Of a router's usage: a record holds some ten thousand tenants, and what changes is written anew.
constexpr std::size_t usage_buckets = 64;

// Stored: stays as it is. FNV-1a.
std::size_t bucket_of(const std::string& tenant) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : tenant) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash % usage_buckets;
}

}  // namespace

// ---------------------------------------------------------------- routers

Result<void> Directory::announce_router(const RouterRecord& own) {
  if (auto good = check(own); !good) return good;
  if (own.name != impl_->router) {
    return fail(Error(ErrorCode::invalid_argument,
                      "router '" + impl_->router + "' cannot announce itself as '" + own.name + "'")
                    .with_param("name"));
  }
  const std::lock_guard lock(impl_->announce_mutex);
  auto& lease = impl_->announced_lease;
  if (lease != 0) {
    const auto kept = impl_->store->keep_alive(lease);
    if (!kept && kept.error().code != ErrorCode::not_found) return kept;
    if (!kept) impl_->give_up_name();
    if (kept && impl_->announced == own) return {};
  }
  const auto key = Impl::routers_prefix + own.name;
  for (int attempt = 0; attempt < Impl::max_attempts; ++attempt) {
    const auto entry = impl_->store->get(key);
    if (!entry) return fail(entry.error());
    if (*entry) {
      const auto stored = decode_router((*entry)->value);
      if (!stored) return fail(stored.error());
      if (lease == 0 || stored->lease != lease) {
        impl_->give_up_name();
        return fail(Error(ErrorCode::already_exists,
                          "a router named '" + own.name + "' is alive at " +
                              stored->router.address +
                              "; give each its own name (that of one that crashed is free again "
                              "within " +
                              std::to_string(router_ttl.count()) + " seconds)")
                        .retry_after(static_cast<std::uint32_t>(router_ttl.count() * 1000)));
      }
    }
    if (lease == 0) {
      const auto granted = impl_->store->grant(router_ttl);
      if (!granted) return fail(granted.error());
      lease = *granted;
    }
    const auto put = impl_->store->put(key, encode(RouterEntry{own, lease}),
                                       *entry ? (*entry)->revision : 0, lease);
    if (put) {
      impl_->announced = own;
      return {};
    }
    // Another router of this name was faster, or an earlier write of our own was only late.
    impl_->announced.reset();
    if (!is_conflict(put.error())) return fail(put.error());
  }
  return fail(contended(key));
}

void Directory::retire_router() {
  const std::lock_guard lock(impl_->announce_mutex);
  impl_->give_up_name();
}

// Its record goes with the lease. Where the store cannot be reached, the lease ends by itself.
void Directory::Impl::give_up_name() {
  if (announced_lease != 0) (void)store->revoke(announced_lease);
  announced_lease = 0;
  announced.reset();
}

Result<std::vector<RouterRecord>> Directory::routers() const {
  const auto entries = impl_->store->list(Impl::routers_prefix);
  if (!entries) return fail(entries.error());
  std::vector<RouterRecord> out;
  for (const auto& entry : *entries) {
    auto stored = decode_router(entry.value);
    if (!stored) return fail(stored.error());
    out.push_back(std::move(stored->router));
  }
  return out;
}

// ---------------------------------------------------------------- usage and quota leases

Result<void> Directory::Impl::read_own_usage() {
  own_usage.resize(usage_buckets);
  const auto entries = store->list(usage_prefix + router + "/");
  if (!entries) return fail(entries.error());
  for (const auto& entry : *entries) {
    const auto part = decode_usage(entry.value);
    if (!part) return fail(part.error());
    for (const auto& [tenant, used] : *part) own_usage[bucket_of(tenant)][tenant] += used;
  }
  return {};
}

Result<void> Directory::save_usage(const std::map<std::string, cluster::Usage>& own) {
  std::vector<UsageByTenant> buckets(usage_buckets);
  for (const auto& [tenant, used] : own) {
    auto& bucket = buckets[bucket_of(tenant)];
    bucket.emplace_hint(bucket.end(), tenant, used);
  }
  const std::lock_guard saving(impl_->save_mutex);
  for (std::size_t i = 0; i < usage_buckets; ++i) {
    if (buckets[i] == impl_->own_usage[i]) continue;
    const auto key = Impl::usage_prefix + impl_->router + "/" + std::to_string(i);
    if (auto put = impl_->store->put(key, encode(buckets[i])); !put) return fail(put.error());
    const std::lock_guard lock(impl_->usage_mutex);
    impl_->own_usage[i] = std::move(buckets[i]);
  }
  return {};
}

std::map<std::string, cluster::Usage> Directory::own_usage() const {
  const std::lock_guard lock(impl_->usage_mutex);
  UsageByTenant all;
  for (const auto& bucket : impl_->own_usage) all.insert(bucket.begin(), bucket.end());
  return all;
}

Result<std::map<std::string, cluster::Usage>> Directory::usage() const {
  const auto entries = impl_->store->list(Impl::usage_prefix);
  if (!entries) return fail(entries.error());
  UsageByTenant sum;
  for (const auto& entry : *entries) {
    const auto part = decode_usage(entry.value);
    if (!part) return part;
    for (const auto& [tenant, used] : *part) sum[tenant] += used;
  }
  return sum;
}

Result<cluster::Granted> Directory::renew_lease(const std::string& tenant, double demand,
                                                double in_use, std::uint64_t now_ms,
                                                const cluster::LeaseConfig& config) {
  const auto key = Impl::leases_prefix + tenant;
  for (int attempt = 0; attempt < Impl::max_attempts; ++attempt) {
    const auto entry = impl_->store->get(key);
    if (!entry) return fail(entry.error());
    cluster::QuotaLease before;
    if (*entry) {
      auto read = decode_quota_lease((*entry)->value);
      if (!read) return fail(read.error());
      before = std::move(*read);
    }
    const auto after = cluster::renew(before, impl_->router, demand, in_use, now_ms, config);
    const auto put = impl_->store->put(key, encode(after), *entry ? (*entry)->revision : 0);
    if (put) return cluster::granted(after, impl_->router, config);
    if (!is_conflict(put.error())) return fail(put.error());
  }
  return fail(contended(key));
}

}  // namespace plimsoll
