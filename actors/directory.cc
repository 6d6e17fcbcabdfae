#include "actors/directory.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#include "actors/records.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

using storage::StateChange;
using storage::StateEntry;

// What is under config/ is watched and held in memory; the rest is read when it is asked for.
const std::string config = "config/";
const std::string tenants_prefix = config + "tenants/";
const std::string nodes_prefix = config + "nodes/";
const std::string placements_prefix = config + "placements/";
const std::string tokens_prefix = "join_tokens/";
const std::string usage_prefix = "usage/";
const std::string leases_prefix = "quota_leases/";

constexpr int max_attempts = 64;  // of a change that others' changes get in the way of
constexpr std::size_t max_keys = 32;
constexpr std::size_t max_join_tokens = 1000;
constexpr std::uint64_t max_token_ttl_s = 30 * 24 * 3600;
constexpr std::size_t token_id_characters = 12;

std::string index_of(const std::string& sha256) { return sha256.substr(0, 32); }

bool is_conflict(const Error& error) { return error.reason == "conflict"; }

Error contended(const std::string& key) {
  return Error(ErrorCode::unavailable, "'" + key + "' is changed by too many at once")
      .retry_after(1000);
}

}  // namespace

struct Directory::Impl {
  struct Key {
    std::string sha256;
    std::uint64_t expires_s;
    std::string tenant;
  };

  // ---- the view
  void apply(const StateChange& change);
  template <class Record>
  void apply_to(std::map<std::string, Record>& records, const std::string& name,
                const StateChange& change, Result<Record> (*decode)(std::string_view));
  void forget_keys(const std::string& tenant);
  void index_keys(const std::string& tenant);
  void changed(const std::vector<StateChange>& changes);

  // ---- the store
  Result<void> put_new(const std::string& key, const std::string& value, const Error& exists);
  template <class Record>
  Result<Record> change(const std::string& key, Result<Record> (*decode)(std::string_view),
                        const Error& missing, const std::function<Result<void>(Record&)>& change);
  Result<void> remove(const std::string& key, const Error& missing);

  std::shared_ptr<storage::StateStore> store;
  std::string router;

  mutable std::shared_mutex mutex;
  std::map<std::string, std::uint64_t> revisions;  // of what the view holds, by key
  std::map<std::string, cluster::Tenant> tenants;
  std::map<std::string, NodeRecord> nodes;
  std::map<std::string, ModelPlacement> placements;
  std::unordered_multimap<std::string, Key> keys;  // by the first half of the hash
  UsageByTenant own_usage;

  std::mutex callback_mutex;
  std::function<void()> callback;
  std::unique_ptr<storage::StateStore::Watch> watch;  // ends first
};

// ---------------------------------------------------------------- the view

void Directory::Impl::apply(const StateChange& change) {
  const auto& key = change.entry.key;
  const std::unique_lock lock(mutex);
  const auto known = revisions.find(key);
  // This router's own changes are applied at once, and come again with the watch.
  if (known != revisions.end() && known->second >= change.entry.revision + change.removed) return;
  if (key.starts_with(tenants_prefix)) {
    const auto name = key.substr(tenants_prefix.size());
    forget_keys(name);
    apply_to(tenants, name, change, decode_tenant);
    index_keys(name);
  } else if (key.starts_with(nodes_prefix)) {
    apply_to(nodes, key.substr(nodes_prefix.size()), change, decode_node);
  } else if (key.starts_with(placements_prefix)) {
    apply_to(placements, key.substr(placements_prefix.size()), change, decode_placement);
  }
  if (change.removed) {
    revisions.erase(key);
  } else {
    revisions[key] = change.entry.revision;
  }
}

template <class Record>
void Directory::Impl::apply_to(std::map<std::string, Record>& records, const std::string& name,
                               const StateChange& change,
                               Result<Record> (*decode)(std::string_view)) {
  if (change.removed) {
    records.erase(name);
    return;
  }
  auto record = decode(change.entry.value);
  if (record) {
    records.insert_or_assign(name, std::move(*record));
    return;
  }
  // One bad record must not stop a cluster: what is known of it stays. It can be removed.
  spdlog::error("the stored record '{}' is not usable: {}", change.entry.key,
                to_string(record.error()));
}

void Directory::Impl::forget_keys(const std::string& tenant) {
  const auto found = tenants.find(tenant);
  if (found == tenants.end()) return;
  for (const auto& key : found->second.keys) {
    const auto [begin, end] = keys.equal_range(index_of(key.sha256));
    const auto it =
        std::find_if(begin, end, [&](const auto& item) { return item.second.tenant == tenant; });
    if (it != end) keys.erase(it);
  }
}

void Directory::Impl::index_keys(const std::string& tenant) {
  const auto found = tenants.find(tenant);
  if (found == tenants.end()) return;
  for (const auto& key : found->second.keys) {
    keys.emplace(index_of(key.sha256), Key{key.sha256, key.expires_s, tenant});
  }
}

void Directory::Impl::changed(const std::vector<StateChange>& changes) {
  for (const auto& change : changes) apply(change);
  const std::lock_guard lock(callback_mutex);
  if (callback) callback();
}

// ---------------------------------------------------------------- the store

Result<void> Directory::Impl::put_new(const std::string& key, const std::string& value,
                                      const Error& exists) {
  const auto revision = store->put(key, value, 0);
  if (!revision) return fail(is_conflict(revision.error()) ? exists : revision.error());
  apply({{key, value, *revision}, false});
  return {};
}

template <class Record>
Result<Record> Directory::Impl::change(const std::string& key,
                                       Result<Record> (*decode)(std::string_view),
                                       const Error& missing,
                                       const std::function<Result<void>(Record&)>& change) {
  for (int attempt = 0; attempt < max_attempts; ++attempt) {
    const auto entry = store->get(key);
    if (!entry) return fail(entry.error());
    if (!*entry) return fail(missing);
    auto record = decode((*entry)->value);
    if (!record) return record;
    if (auto done = change(*record); !done) return fail(done.error());
    if (auto good = check(*record); !good) return fail(good.error());
    const auto value = encode(*record);
    const auto revision = store->put(key, value, (*entry)->revision);
    if (revision) {
      apply({{key, value, *revision}, false});
      return record;
    }
    if (!is_conflict(revision.error())) return fail(revision.error());
  }
  return fail(contended(key));
}

Result<void> Directory::Impl::remove(const std::string& key, const Error& missing) {
  const auto entry = store->get(key);
  if (!entry) return fail(entry.error());
  if (!*entry) return fail(missing);
  if (auto removed = store->remove(key); !removed) return removed;
  apply({{key, {}, (*entry)->revision}, true});
  return {};
}

Directory::Directory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Directory::~Directory() = default;

Result<std::unique_ptr<Directory>> Directory::open(std::shared_ptr<storage::StateStore> store,
                                                   std::string router) {
  if (auto good = check_node_name(router); !good) return fail(good.error());
  auto impl = std::make_unique<Impl>();
  impl->store = std::move(store);
  impl->router = std::move(router);
  const auto own = impl->store->get(usage_prefix + impl->router);
  if (!own) return fail(own.error());
  if (*own) {
    auto usage = decode_usage((*own)->value);
    if (!usage) return fail(usage.error());
    impl->own_usage = std::move(*usage);
  }
  const auto entries = impl->store->list(config);
  if (!entries) return fail(entries.error());
  for (const auto& entry : *entries) impl->apply({entry, false});
  impl->watch = impl->store->watch(
      config, [view = impl.get()](const auto& changes) { view->changed(changes); });
  return std::unique_ptr<Directory>(new Directory(std::move(impl)));
}

// ---------------------------------------------------------------- tenants

namespace {

Error no_tenant(const std::string& name) {
  return {ErrorCode::not_found, "no tenant named '" + name + "'"};
}
Error no_node(const std::string& name) {
  return {ErrorCode::not_found, "no node named '" + name + "' has joined"};
}

template <class Record>
std::vector<Record> values(const std::map<std::string, Record>& records) {
  std::vector<Record> out;
  for (const auto& [name, record] : records) out.push_back(record);
  return out;
}

}  // namespace

std::vector<cluster::Tenant> Directory::tenants() const {
  const std::shared_lock lock(impl_->mutex);
  return values(impl_->tenants);
}

std::optional<cluster::Tenant> Directory::tenant(const std::string& name) const {
  const std::shared_lock lock(impl_->mutex);
  const auto found = impl_->tenants.find(name);
  if (found == impl_->tenants.end()) return std::nullopt;
  return found->second;
}

std::optional<cluster::Tenant> Directory::find_key(std::string_view api_key,
                                                   std::uint64_t now_s) const {
  const auto hash = sha256_hex(api_key);
  const std::shared_lock lock(impl_->mutex);
  // The look-up goes by a hash that no caller can steer; what it finds is compared in full.
  const auto [begin, end] = impl_->keys.equal_range(index_of(hash));
  for (auto it = begin; it != end; ++it) {
    const auto& key = it->second;
    const bool valid = key.expires_s == 0 || now_s < key.expires_s;
    if (same_digest(key.sha256, hash) && valid) return impl_->tenants.at(key.tenant);
  }
  return std::nullopt;
}

Result<void> Directory::create_tenant(cluster::Tenant tenant) {
  if (auto good = check(tenant); !good) return good;
  return impl_->put_new(
      tenants_prefix + tenant.name, encode(tenant),
      {ErrorCode::already_exists, "a tenant named '" + tenant.name + "' is there already"});
}

Result<cluster::Tenant> Directory::change_tenant(
    const std::string& name, const std::function<Result<void>(cluster::Tenant&)>& change) {
  return impl_->change<cluster::Tenant>(
      tenants_prefix + name, decode_tenant, no_tenant(name),
      [&](cluster::Tenant& tenant) -> Result<void> {
        if (auto done = change(tenant); !done) return done;
        if (tenant.name == name) return {};
        return fail(Error(ErrorCode::invalid_argument, "a tenant's name stays as it is")
                        .with_param("name"));
      });
}

Result<void> Directory::remove_tenant(const std::string& name) {
  if (auto removed = impl_->remove(tenants_prefix + name, no_tenant(name)); !removed) {
    return removed;
  }
  (void)impl_->store->remove(leases_prefix + name);  // without its tenant it says nothing
  return {};
}

Result<std::string> Directory::rotate_key(const std::string& name, std::uint64_t now_s,
                                          std::uint64_t grace_s) {
  const auto key = make_secret("pl-");
  if (!key) return key;
  const auto changed = change_tenant(name, [&](cluster::Tenant& tenant) -> Result<void> {
    for (auto& old : tenant.keys) {
      const auto end = now_s + std::min(grace_s, max_token_ttl_s);
      old.expires_s = old.expires_s == 0 ? end : std::min(old.expires_s, end);
    }
    std::erase_if(tenant.keys, [&](const auto& old) { return old.expires_s <= now_s; });
    if (tenant.keys.size() >= max_keys) {
      return fail(ErrorCode::resource_exhausted,
                  "'" + name + "' has " + std::to_string(max_keys) +
                      " keys that are still valid; rotate with a shorter grace");
    }
    tenant.keys.push_back({sha256_hex(*key), now_s, 0});
    return {};
  });
  if (!changed) return fail(changed.error());
  return key;
}

// ---------------------------------------------------------------- nodes

Result<std::string> Directory::create_join_token(std::uint64_t now_s, std::uint64_t ttl_s) {
  if (ttl_s == 0 || ttl_s > max_token_ttl_s) {
    return fail(Error(ErrorCode::invalid_argument, "a join token lasts 1 second to 30 days")
                    .with_param("ttl"));
  }
  const auto tokens = join_tokens();
  if (!tokens) return fail(tokens.error());
  if (tokens->size() >= max_join_tokens) {
    return fail(ErrorCode::resource_exhausted,
                std::to_string(max_join_tokens) + " join tokens wait to be used; revoke some");
  }
  const auto token = make_secret("plj-");
  if (!token) return token;
  // The lease only sweeps up: what counts is the time in the record.
  const auto lease = impl_->store->grant(std::chrono::seconds(ttl_s));
  if (!lease) return fail(lease.error());
  const auto put = impl_->store->put(tokens_prefix + sha256_hex(*token),
                                     encode(JoinToken{now_s, now_s + ttl_s}), 0, *lease);
  if (!put) return fail(put.error());
  return token;
}

Result<std::vector<Directory::JoinTokenInfo>> Directory::join_tokens() const {
  const auto entries = impl_->store->list(tokens_prefix);
  if (!entries) return fail(entries.error());
  std::vector<JoinTokenInfo> out;
  for (const auto& entry : *entries) {
    const auto token = decode_join_token(entry.value);
    // One that cannot be read admits nobody; it is shown so that it can be revoked.
    out.push_back({entry.key.substr(tokens_prefix.size(), token_id_characters),
                   token ? token->expires_s : 0});
  }
  return out;
}

Result<void> Directory::revoke_join_token(const std::string& id) {
  const auto entries = impl_->store->list(tokens_prefix);
  if (!entries) return fail(entries.error());
  for (const auto& entry : *entries) {
    if (entry.key.substr(tokens_prefix.size(), token_id_characters) == id) {
      return impl_->store->remove(entry.key);
    }
  }
  return fail(ErrorCode::not_found, "no join token '" + id + "'; it may be spent or expired");
}

Result<std::string> Directory::admit_node(const std::string& node, const std::string& token,
                                          std::uint64_t now_s) {
  const Error refused(ErrorCode::permission_denied,
                      "the join token is unknown, spent or expired; make a new one");
  const Error exists(ErrorCode::already_exists, "a node named '" + node +
                                                    "' has joined before; remove it first, or "
                                                    "give this one another name");
  if (auto good = check_node_name(node); !good) return fail(good.error());
  const auto token_key = tokens_prefix + sha256_hex(token);
  const auto entry = impl_->store->get(token_key);
  if (!entry) return fail(entry.error());
  if (!*entry) return fail(refused);
  const auto record = decode_join_token((*entry)->value);
  if (!record) return fail(record.error());
  if (now_s >= record->expires_s) return fail(refused);
  const auto taken = impl_->store->get(nodes_prefix + node);
  if (!taken) return fail(taken.error());
  if (*taken) return fail(exists);

  const auto secret = make_secret("pln-");
  if (!secret) return secret;
  // Spent first: a crash in between costs a token, and lets nobody in twice.
  const auto spent = impl_->store->remove(token_key, (*entry)->revision);
  if (!spent) return fail(is_conflict(spent.error()) ? refused : spent.error());
  const auto put = impl_->put_new(
      nodes_prefix + node, encode(NodeRecord{node, sha256_hex(*secret), false, now_s}), exists);
  if (!put) return fail(put.error());
  return secret;
}

bool Directory::check_node(const std::string& node, std::string_view secret) const {
  const auto hash = sha256_hex(secret);
  const std::shared_lock lock(impl_->mutex);
  const auto found = impl_->nodes.find(node);
  return found != impl_->nodes.end() && same_digest(found->second.secret_sha256, hash);
}

std::vector<NodeRecord> Directory::nodes() const {
  const std::shared_lock lock(impl_->mutex);
  return values(impl_->nodes);
}

Result<void> Directory::set_cordoned(const std::string& node, bool cordoned) {
  const auto changed = impl_->change<NodeRecord>(nodes_prefix + node, decode_node, no_node(node),
                                                 [&](NodeRecord& record) -> Result<void> {
                                                   record.cordoned = cordoned;
                                                   return {};
                                                 });
  if (!changed) return fail(changed.error());
  return {};
}

Result<void> Directory::remove_node(const std::string& node) {
  return impl_->remove(nodes_prefix + node, no_node(node));
}

// ---------------------------------------------------------------- models

std::vector<ModelPlacement> Directory::placements() const {
  const std::shared_lock lock(impl_->mutex);
  return values(impl_->placements);
}

Result<void> Directory::place(const ModelPlacement& placement) {
  if (auto good = check(placement); !good) return good;
  const auto key = placements_prefix + placement.model;
  const auto value = encode(placement);
  const auto revision = impl_->store->put(key, value);
  if (!revision) return fail(revision.error());
  impl_->apply({{key, value, *revision}, false});
  return {};
}

Result<void> Directory::unplace(const std::string& model) {
  return impl_->remove(placements_prefix + model,
                       {ErrorCode::not_found, "no model '" + model + "' was added at run time"});
}

// ---------------------------------------------------------------- usage and quota leases

Result<void> Directory::save_usage(const std::map<std::string, cluster::Usage>& own) {
  {
    const std::shared_lock lock(impl_->mutex);
    if (own == impl_->own_usage) return {};
  }
  const auto revision = impl_->store->put(usage_prefix + impl_->router, encode(own));
  if (!revision) return fail(revision.error());
  const std::unique_lock lock(impl_->mutex);
  impl_->own_usage = own;
  return {};
}

std::map<std::string, cluster::Usage> Directory::own_usage() const {
  const std::shared_lock lock(impl_->mutex);
  return impl_->own_usage;
}

Result<std::map<std::string, cluster::Usage>> Directory::usage() const {
  const auto entries = impl_->store->list(usage_prefix);
  if (!entries) return fail(entries.error());
  UsageByTenant sum;
  for (const auto& entry : *entries) {
    const auto part = decode_usage(entry.value);
    if (!part) return part;
    for (const auto& [tenant, used] : *part) sum[tenant] += used;
  }
  return sum;
}

Result<cluster::QuotaLease> Directory::renew_lease(const std::string& tenant, double demand,
                                                   double in_use, std::uint64_t now_ms) {
  const auto key = leases_prefix + tenant;
  for (int attempt = 0; attempt < max_attempts; ++attempt) {
    const auto entry = impl_->store->get(key);
    if (!entry) return fail(entry.error());
    cluster::QuotaLease before;
    if (*entry) {
      auto read = decode_quota_lease((*entry)->value);
      if (!read) return read;
      before = std::move(*read);
    }
    const auto after = cluster::renew(before, impl_->router, demand, in_use, now_ms);
    const auto put = impl_->store->put(key, encode(after), *entry ? (*entry)->revision : 0);
    if (put) return after;
    if (!is_conflict(put.error())) return fail(put.error());
  }
  return fail(contended(key));
}

void Directory::on_change(std::function<void()> callback) {
  const std::lock_guard lock(impl_->callback_mutex);
  impl_->callback = std::move(callback);
}

}  // namespace plimsoll
