#include "actors/directory.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "actors/directory_impl.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

using storage::StateChange;

constexpr std::size_t max_keys = 32;
constexpr std::chrono::seconds first_view_deadline{30};

std::string index_of(const std::string& sha256) { return sha256.substr(0, 32); }

Error no_tenant(const std::string& name) {
  return {ErrorCode::not_found, "no tenant named '" + name + "'"};
}

}  // namespace

Error contended(const std::string& key) {
  return Error(ErrorCode::unavailable, "'" + key + "' is changed by too many at once")
      .retry_after(1000);
}

// ---------------------------------------------------------------- the view

// This router's own changes are applied at once, and come again with the watch, which may still
// have to tell of what was before them.
void Directory::Impl::apply(const StateChange& change, Origin origin) {
  const auto& key = change.entry.key;
  const auto revision = change.entry.revision;
  const std::unique_lock lock(mutex);
  const auto known = revisions.find(key);
  if (known == revisions.end() && change.removed) return;
  if (known != revisions.end() && known->second >= revision + change.removed) return;
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
  if (change.removed && origin == Origin::watch) {
    revisions.erase(known);
  } else {
    revisions[key] = revision;
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
  for (const auto& change : changes) apply(change, Origin::watch);
  {
    const std::unique_lock lock(mutex);
    seen = true;
  }
  first_seen.notify_all();
  const std::lock_guard lock(callback_mutex);
  if (callback) callback();
}

// ---------------------------------------------------------------- the store

Result<void> Directory::Impl::put_new(const std::string& key, const std::string& value,
                                      const Error& exists) {
  const auto revision = store->put(key, value, 0);
  if (!revision) return fail(is_conflict(revision.error()) ? exists : revision.error());
  apply({{key, value, *revision}, false}, Origin::own);
  return {};
}

Result<void> Directory::Impl::remove(const std::string& key, const Error& missing) {
  for (int attempt = 0; attempt < max_attempts; ++attempt) {
    const auto entry = store->get(key);
    if (!entry) return fail(entry.error());
    if (!*entry) return fail(missing);
    const auto revision = (*entry)->revision;
    const auto removed = store->remove(key, revision);
    if (removed) {
      apply({{key, {}, revision}, true}, Origin::own);
      return {};
    }
    if (!is_conflict(removed.error())) return removed;
  }
  return fail(contended(key));
}

Directory::Directory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Directory::~Directory() = default;

Result<std::unique_ptr<Directory>> Directory::open(std::shared_ptr<storage::StateStore> store,
                                                   std::string router) {
  if (auto good = check_node_name(router); !good) return fail(good.error());
  auto impl = std::make_unique<Impl>();
  impl->store = std::move(store);
  impl->router = std::move(router);
  const auto own = impl->store->get(Impl::usage_prefix + impl->router);
  if (!own) return fail(own.error());
  if (*own) {
    auto usage = decode_usage((*own)->value);
    if (!usage) return fail(usage.error());
    impl->own_usage = std::move(*usage);
  }
  // The watch says first what is there: with a list of one's own, what is removed between the two
  // would stay in the view.
  impl->watch = impl->store->watch(
      Impl::config, [view = impl.get()](const auto& changes) { view->changed(changes); });
  {
    std::unique_lock lock(impl->mutex);
    if (!impl->first_seen.wait_for(lock, first_view_deadline, [&] { return impl->seen; })) {
      lock.unlock();
      return fail(ErrorCode::unavailable, "the state store no longer answers; start again");
    }
  }
  return std::unique_ptr<Directory>(new Directory(std::move(impl)));
}

// ---------------------------------------------------------------- tenants

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
      Impl::tenants_prefix + tenant.name, encode(tenant),
      {ErrorCode::already_exists, "a tenant named '" + tenant.name + "' is there already"});
}

Result<void> Directory::declare_tenant(cluster::Tenant tenant) {
  tenant.declared.clear();
  for (auto& key : tenant.keys) key.created_s = 0;
  const auto digest = sha256_hex(canonical(tenant));
  const auto declared = impl_->update<cluster::Tenant>(
      Impl::tenants_prefix + tenant.name, decode_tenant,
      [&](std::optional<cluster::Tenant>& record) -> Result<void> {
        if (record && record->declared == digest) return {};
        auto next = tenant;
        next.declared = digest;
        if (record) {
          std::copy_if(record->keys.begin(), record->keys.end(), std::back_inserter(next.keys),
                       [](const auto& key) { return key.created_s != 0; });
        }
        record = std::move(next);
        return {};
      });
  if (!declared) return fail(declared.error());
  return {};
}

Result<cluster::Tenant> Directory::change_tenant(
    const std::string& name, const std::function<Result<void>(cluster::Tenant&)>& change) {
  return impl_->change<cluster::Tenant>(
      Impl::tenants_prefix + name, decode_tenant, no_tenant(name),
      [&](cluster::Tenant& tenant) -> Result<void> {
        if (auto done = change(tenant); !done) return done;
        if (tenant.name == name) return {};
        return fail(Error(ErrorCode::invalid_argument, "a tenant's name stays as it is")
                        .with_param("name"));
      });
}

Result<void> Directory::remove_tenant(const std::string& name) {
  if (auto removed = impl_->remove(Impl::tenants_prefix + name, no_tenant(name)); !removed) {
    return removed;
  }
  (void)impl_->store->remove(Impl::leases_prefix + name);  // without its tenant it says nothing
  return {};
}

Result<std::string> Directory::rotate_key(const std::string& name, std::uint64_t now_s,
                                          std::uint64_t grace_s) {
  const auto key = make_secret("pl-");
  if (!key) return key;
  const auto changed = change_tenant(name, [&](cluster::Tenant& tenant) -> Result<void> {
    for (auto& old : tenant.keys) {
      const auto end = now_s + std::min(grace_s, Impl::max_token_ttl_s);
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

// ---------------------------------------------------------------- models

std::vector<ModelPlacement> Directory::placements() const {
  const std::shared_lock lock(impl_->mutex);
  return values(impl_->placements);
}

Result<void> Directory::place(const ModelPlacement& placement) {
  if (auto good = check(placement); !good) return good;
  const auto key = Impl::placements_prefix + placement.model;
  const auto value = encode(placement);
  const auto revision = impl_->store->put(key, value);
  if (!revision) return fail(revision.error());
  impl_->apply({{key, value, *revision}, false}, Impl::Origin::own);
  return {};
}

Result<void> Directory::unplace(const std::string& model) {
  return impl_->remove(Impl::placements_prefix + model,
                       {ErrorCode::not_found, "no model '" + model + "' was added at run time"});
}

void Directory::on_change(std::function<void()> callback) {
  const std::lock_guard lock(impl_->callback_mutex);
  impl_->callback = std::move(callback);
}

}  // namespace plimsoll
