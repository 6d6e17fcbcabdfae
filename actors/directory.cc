#include "actors/directory.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "actors/directory_impl.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

constexpr std::size_t max_keys = 32;
constexpr std::chrono::seconds first_view_deadline{30};

Error no_tenant(const std::string& name) {
  return {ErrorCode::not_found, "no tenant named '" + name + "'"};
}

}  // namespace

Error contended(const std::string& key) {
  return Error(ErrorCode::unavailable, "'" + key + "' is changed by too many at once")
      .retry_after(1000);
}

// ---------------------------------------------------------------- the store

Result<void> Directory::Impl::put_new(const std::string& key, const std::string& value,
                                      const Error& exists) {
  const auto revision = store->put(key, value, 0);
  if (!revision) return fail(is_conflict(revision.error()) ? exists : revision.error());
  view.put({key, value, *revision});
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
      view.removed(key, revision);
      return {};
    }
    if (!is_conflict(removed.error())) return removed;
  }
  return fail(contended(key));
}

void Directory::Impl::changed(const std::vector<storage::StateChange>& changes) {
  view.told(changes);
  const std::lock_guard lock(callback_mutex);
  if (callback) callback();
}

Directory::Directory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Directory::~Directory() = default;

Result<std::unique_ptr<Directory>> Directory::open(std::shared_ptr<storage::StateStore> store,
                                                   std::string router) {
  if (auto good = check_node_name(router); !good) return fail(good.error());
  auto impl = std::make_unique<Impl>();
  impl->store = std::move(store);
  impl->router = std::move(router);
  if (auto read = impl->read_own_usage(); !read) return fail(read.error());
  // The watch says first what is there: with a list of one's own, what is removed between the two
  // would stay in the view.
  impl->watch =
      impl->store->watch(DirectoryView::prefix,
                         [inside = impl.get()](const auto& changes) { inside->changed(changes); });
  if (!impl->view.wait_until_told(first_view_deadline)) {
    return fail(ErrorCode::unavailable, "the state store no longer answers; start again");
  }
  return std::unique_ptr<Directory>(new Directory(std::move(impl)));
}

// ---------------------------------------------------------------- tenants

std::vector<cluster::Tenant> Directory::tenants() const { return impl_->view.tenants(); }

std::optional<cluster::Tenant> Directory::tenant(const std::string& name) const {
  return impl_->view.tenant(name);
}

std::optional<cluster::Tenant> Directory::find_key(std::string_view api_key,
                                                   std::uint64_t now_s) const {
  return impl_->view.find_key(api_key, now_s);
}

Result<void> Directory::create_tenant(cluster::Tenant tenant) {
  if (auto good = check(tenant); !good) return good;
  return impl_->put_new(
      DirectoryView::tenants_prefix + tenant.name, encode(tenant),
      {ErrorCode::already_exists, "a tenant named '" + tenant.name + "' is there already"});
}

Result<void> Directory::declare_tenant(cluster::Tenant tenant) {
  tenant.declared.clear();
  for (auto& key : tenant.keys) key.created_s = 0;
  const auto digest = sha256_hex(canonical(tenant));
  const auto declared = impl_->update<cluster::Tenant>(
      DirectoryView::tenants_prefix + tenant.name, decode_tenant,
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
      DirectoryView::tenants_prefix + name, decode_tenant, no_tenant(name),
      [&](cluster::Tenant& tenant) -> Result<void> {
        if (auto done = change(tenant); !done) return done;
        if (tenant.name == name) return {};
        return fail(Error(ErrorCode::invalid_argument, "a tenant's name stays as it is")
                        .with_param("name"));
      });
}

Result<void> Directory::remove_tenant(const std::string& name) {
  if (auto removed = impl_->remove(DirectoryView::tenants_prefix + name, no_tenant(name));
      !removed) {
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

std::vector<ModelPlacement> Directory::placements() const { return impl_->view.placements(); }

Result<void> Directory::place(const ModelPlacement& placement) {
  if (auto good = check(placement); !good) return good;
  const auto key = DirectoryView::placements_prefix + placement.model;
  const auto value = encode(placement);
  const auto revision = impl_->store->put(key, value);
  if (!revision) return fail(revision.error());
  impl_->view.put({key, value, *revision});
  return {};
}

Result<void> Directory::unplace(const std::string& model) {
  return impl_->remove(DirectoryView::placements_prefix + model,
                       {ErrorCode::not_found, "no model '" + model + "' was added at run time"});
}

void Directory::on_change(std::function<void()> callback) {
  const std::lock_guard lock(impl_->callback_mutex);
  impl_->callback = std::move(callback);
}

}  // namespace plimsoll
