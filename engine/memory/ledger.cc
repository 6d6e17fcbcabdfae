#include "engine/memory/ledger.h"

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>

#include "engine/memory/process_memory.h"

namespace plimsoll {

std::string_view to_string(Component component) {
  switch (component) {
    case Component::weights: return "weights";
    case Component::kv: return "kv";
    case Component::activations: return "activations";
    case Component::prefix_cache: return "prefix_cache";
    case Component::embedding_cache: return "embedding_cache";
    case Component::tokenizer: return "tokenizer";
    case Component::requests: return "requests";
    case Component::queues: return "queues";
    case Component::rpc: return "rpc";
    case Component::storage: return "storage";
    case Component::runtime: return "runtime";
  }
  return "runtime";
}

Component component_of(std::string_view name) {
  for (int i = 0; i < component_count; ++i) {
    if (to_string(static_cast<Component>(i)) == name) return static_cast<Component>(i);
  }
  return Component::runtime;
}

std::string_view to_string(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::anonymous: return "anonymous";
    case MemoryKind::mapped: return "mapped";
    case MemoryKind::device: return "device";
  }
  return "anonymous";
}

MemoryKind kind_of(std::string_view name) {
  for (const auto kind : {MemoryKind::mapped, MemoryKind::device}) {
    if (to_string(kind) == name) return kind;
  }
  return MemoryKind::anonymous;
}

std::vector<LedgerRow> largest_rows(std::vector<LedgerRow> rows, std::size_t most) {
  std::ranges::stable_sort(rows, std::greater<>(), &LedgerRow::bytes);
  if (rows.size() <= most) return rows;
  std::map<std::tuple<Component, MemoryKind, Endpoint>, LedgerRow> others;
  for (std::size_t i = most; i < rows.size(); ++i) {
    const LedgerRow& row = rows[i];
    auto& sum =
        others
            .try_emplace({row.component, row.kind, row.endpoint},
                         LedgerRow{row.component, "", "others", row.kind, 0, 0, 0, row.endpoint})
            .first->second;
    sum.bytes += row.bytes;
    sum.peak_bytes += row.peak_bytes;
    sum.resident_bytes += row.resident_bytes;
  }
  rows.resize(most);
  for (auto& [key, sum] : others) rows.push_back(std::move(sum));
  return rows;
}

void Account::add_region(const void* data, std::uint64_t size) {
  const std::lock_guard lock(regions_mutex_);
  regions_[data] = size;
}

void Account::remove_region(const void* data) {
  const std::lock_guard lock(regions_mutex_);
  regions_.erase(data);
}

std::int64_t Account::resident_bytes() const {
  const std::lock_guard lock(regions_mutex_);
  std::int64_t bytes = this->bytes();
  for (const auto& [data, size] : regions_) {
    bytes -= static_cast<std::int64_t>(size - plimsoll::resident_bytes(data, size));
  }
  return bytes;
}

namespace {

// Tenants come from outside: beyond this many accounts, further ones share the tenant "other".
constexpr std::size_t max_accounts = 65536;

using Key = std::tuple<Component, std::string, std::string, Endpoint, MemoryKind>;

}  // namespace

struct Ledger::State {
  mutable std::mutex mutex;
  std::map<Key, Account> accounts;  // nodes never move, so references stay valid
};

Ledger::Ledger() : state_(std::make_unique<State>()) {}
Ledger::~Ledger() = default;

Account& Ledger::account(Component component, std::string_view model, const TenantId& tenant,
                         MemoryKind kind) {
  return account(component, model, tenant, Endpoint::none, kind);
}

Account& Ledger::account(Component component, std::string_view model, const TenantId& tenant,
                         Endpoint endpoint) {
  return account(component, model, tenant, endpoint, MemoryKind::anonymous);
}

Account& Ledger::account(Component component, std::string_view model, const TenantId& tenant,
                         Endpoint endpoint, MemoryKind kind) {
  const std::lock_guard lock(state_->mutex);
  Key key{component, std::string(model), tenant.get(), endpoint, kind};
  auto& accounts = state_->accounts;
  if (accounts.size() >= max_accounts && !accounts.contains(key)) std::get<2>(key) = "other";
  return accounts.try_emplace(std::move(key)).first->second;
}

std::vector<LedgerRow> Ledger::snapshot() const {
  const std::lock_guard lock(state_->mutex);
  std::vector<LedgerRow> rows;
  rows.reserve(state_->accounts.size());
  for (const auto& [key, account] : state_->accounts) {
    const auto& [component, model, tenant, endpoint, kind] = key;
    rows.push_back({component, model, tenant, kind, account.bytes(), account.peak_bytes(),
                    account.resident_bytes(), endpoint});
  }
  return rows;
}

std::int64_t Ledger::total_bytes(MemoryKind kind) const {
  const std::lock_guard lock(state_->mutex);
  std::int64_t total = 0;
  for (const auto& [key, account] : state_->accounts) {
    if (std::get<MemoryKind>(key) == kind) total += account.bytes();
  }
  return total;
}

MappedCharge::MappedCharge(Ledger& ledger, Component component, std::string_view model,
                           const void* data, std::uint64_t size)
    : account_(&ledger.account(component, model, shared_tenant, MemoryKind::mapped)),
      data_(data),
      charge_(*account_, size) {
  account_->add_region(data, size);
}

MappedCharge::MappedCharge(MappedCharge&& other) noexcept { *this = std::move(other); }

MappedCharge& MappedCharge::operator=(MappedCharge&& other) noexcept {
  std::swap(account_, other.account_);
  std::swap(data_, other.data_);
  std::swap(charge_, other.charge_);
  return *this;
}

MappedCharge::~MappedCharge() {
  if (account_ != nullptr) account_->remove_region(data_);
}

Ledger& process_ledger() {
  static Ledger ledger;
  return ledger;
}

}  // namespace plimsoll
