#include "actors/directory_view.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <mutex>

#include "actors/records.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

using storage::StateChange;

std::string index_of(const std::string& sha256) { return sha256.substr(0, 32); }

template <class Record>
std::vector<Record> values(const std::map<std::string, Record>& records) {
  std::vector<Record> out;
  for (const auto& [name, record] : records) out.push_back(record);
  return out;
}

}  // namespace

// ---------------------------------------------------------------- what the store says

void DirectoryView::told(const std::vector<StateChange>& changes) {
  const std::unique_lock lock(mutex_);
  for (const auto& change : changes) {
    const auto& key = change.entry.key;
    told_ = change.entry.revision;
    const auto known = revisions_.find(key);
    if (known != revisions_.end()) {
      const auto ahead = ahead_.find({known->second, key});
      // What was before a change of one's own that is held already.
      if (ahead != ahead_.end() && told_ < known->second) continue;
      if (ahead != ahead_.end()) ahead_.erase(ahead);
    }
    apply(change);
    if (change.removed) {
      revisions_.erase(key);
    } else {
      revisions_[key] = told_;
    }
  }
  // A watch that lost changes tells the difference of two lists: what came and went in between, and
  // was held ahead of it, is in neither.
  while (!ahead_.empty() && ahead_.begin()->first <= told_) {
    const auto key = ahead_.begin()->second;
    apply({{key, {}, 0}, true});
    revisions_.erase(key);
    ahead_.erase(ahead_.begin());
  }
  told_any_ = true;
  first_.notify_all();
}

bool DirectoryView::wait_until_told(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return first_.wait_for(lock, timeout, [this] { return told_any_; });
}

void DirectoryView::put(const storage::StateEntry& entry) {
  const std::unique_lock lock(mutex_);
  const auto known = revisions_.find(entry.key);
  if (entry.revision <= told_) return;  // told, and perhaps changed since
  if (known != revisions_.end() && known->second >= entry.revision) return;
  apply({entry, false});
  set_ahead(entry.key, entry.revision);
}

void DirectoryView::removed(const std::string& key, std::uint64_t revision) {
  const std::unique_lock lock(mutex_);
  const auto known = revisions_.find(key);
  if (known == revisions_.end() ? revision <= told_ : known->second > revision) return;
  apply({{key, {}, revision}, true});
  set_ahead(key, revision + 1);
}

void DirectoryView::set_ahead(const std::string& key, std::uint64_t revision) {
  auto& known = revisions_[key];
  ahead_.erase({known, key});
  ahead_.emplace(revision, key);
  known = revision;
}

void DirectoryView::apply(const StateChange& change) {
  const auto& key = change.entry.key;
  if (key.starts_with(tenants_prefix)) {
    const auto name = key.substr(tenants_prefix.size());
    forget_keys(name);
    apply_to(tenants_, name, change, decode_tenant);
    index_keys(name);
  } else if (key.starts_with(nodes_prefix)) {
    apply_to(nodes_, key.substr(nodes_prefix.size()), change, decode_node);
  } else if (key.starts_with(placements_prefix)) {
    apply_to(placements_, key.substr(placements_prefix.size()), change, decode_placement);
  }
}

template <class Record>
void DirectoryView::apply_to(std::map<std::string, Record>& records, const std::string& name,
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

void DirectoryView::forget_keys(const std::string& tenant) {
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return;
  for (const auto& key : found->second.keys) {
    const auto [begin, end] = keys_.equal_range(index_of(key.sha256));
    const auto it =
        std::find_if(begin, end, [&](const auto& item) { return item.second.tenant == tenant; });
    if (it != end) keys_.erase(it);
  }
}

void DirectoryView::index_keys(const std::string& tenant) {
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return;
  for (const auto& key : found->second.keys) {
    keys_.emplace(index_of(key.sha256), Key{key.sha256, key.expires_s, tenant});
  }
}

// ---------------------------------------------------------------- what is there

std::vector<cluster::Tenant> DirectoryView::tenants() const {
  const std::shared_lock lock(mutex_);
  return values(tenants_);
}

std::optional<cluster::Tenant> DirectoryView::tenant(const std::string& name) const {
  const std::shared_lock lock(mutex_);
  const auto found = tenants_.find(name);
  if (found == tenants_.end()) return std::nullopt;
  return found->second;
}

std::optional<cluster::Tenant> DirectoryView::find_key(std::string_view api_key,
                                                       std::uint64_t now_s) const {
  const auto hash = sha256_hex(api_key);
  const std::shared_lock lock(mutex_);
  // The look-up goes by a hash that no caller can steer; what it finds is compared in full.
  const auto [begin, end] = keys_.equal_range(index_of(hash));
  for (auto it = begin; it != end; ++it) {
    const auto& key = it->second;
    const bool valid = key.expires_s == 0 || now_s < key.expires_s;
    if (same_digest(key.sha256, hash) && valid) return tenants_.at(key.tenant);
  }
  return std::nullopt;
}

std::vector<NodeRecord> DirectoryView::nodes() const {
  const std::shared_lock lock(mutex_);
  return values(nodes_);
}

bool DirectoryView::check_node(const std::string& node, std::string_view secret) const {
  const auto hash = sha256_hex(secret);
  const std::shared_lock lock(mutex_);
  const auto found = nodes_.find(node);
  return found != nodes_.end() && same_digest(found->second.secret_sha256, hash);
}

std::vector<ModelPlacement> DirectoryView::placements() const {
  const std::shared_lock lock(mutex_);
  return values(placements_);
}

}  // namespace plimsoll
