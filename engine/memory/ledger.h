// The memory ledger: every allocation over 4 KiB that can grow with load has an owner here.
//
// An account is one (component, model version, tenant, endpoint, kind). Look it up once, keep the
// reference (it lives as long as the ledger), charge it before allocating and release it after
// freeing. Charging is a relaxed atomic add; sums are taken by snapshot().
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/types.h"

namespace plimsoll {

enum class Component : std::uint8_t {
  weights,
  kv,
  activations,
  prefix_cache,
  embedding_cache,
  tokenizer,
  requests,
  queues,
  rpc,
  storage,
  runtime,
};
inline constexpr int component_count = 11;
std::string_view to_string(Component component);
Component component_of(std::string_view name);  // runtime, if it has another name

enum class MemoryKind : std::uint8_t {
  anonymous,  // counts against the limit and cannot be reclaimed by the kernel
  mapped,     // file-backed and clean: reclaimable, shared with other processes
  device,     // on an accelerator
};
std::string_view to_string(MemoryKind kind);
MemoryKind kind_of(std::string_view name);  // anonymous, if it has another name

// Thread-safe. Never goes below zero in a correct program (asserted in debug builds).
class Account {
 public:
  void charge(std::uint64_t bytes) {
    const auto now = bytes_.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed) +
                     static_cast<std::int64_t>(bytes);
    auto peak = peak_.load(std::memory_order_relaxed);
    while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }
  void release(std::uint64_t bytes) {
    bytes_.fetch_sub(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
  }
  std::int64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::int64_t peak_bytes() const { return peak_.load(std::memory_order_relaxed); }

  // Memory that is charged in whole and touched in part, or that the kernel may take back: reports
  // look up how much of it is there. Takes a lock. The region is to be removed before it is
  // unmapped.
  void add_region(const void* data, std::uint64_t size);
  void remove_region(const void* data);
  // bytes(), less what of the regions is not in memory (mincore).
  std::int64_t resident_bytes() const;

 private:
  std::atomic<std::int64_t> bytes_{0};
  std::atomic<std::int64_t> peak_{0};
  mutable std::mutex regions_mutex_;
  std::map<const void*, std::uint64_t> regions_;
};

struct LedgerRow {
  Component component;
  std::string model;  // model version, "" where none
  std::string tenant;
  MemoryKind kind;
  std::int64_t bytes;
  std::int64_t peak_bytes;
  // What of it is in memory: touched, or of a mapping in page cache.
  std::int64_t resident_bytes;
  Endpoint endpoint = Endpoint::none;
};

// The `most` largest rows, the largest first. The others become one row for each component, kind
// and endpoint, of the tenant "others" and no model.
std::vector<LedgerRow> largest_rows(std::vector<LedgerRow> rows, std::size_t most);

class Ledger {
 public:
  Ledger();
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Finds or makes the account. Takes a lock: not for the hot path. The reference stays valid
  // for the ledger's life.
  Account& account(Component component, std::string_view model, const TenantId& tenant,
                   MemoryKind kind = MemoryKind::anonymous);
  Account& account(Component component, std::string_view model, const TenantId& tenant,
                   Endpoint endpoint);  // of anonymous memory

  // Every account, zero ones included, in the order of their keys.
  std::vector<LedgerRow> snapshot() const;

  // The sum over all accounts of a kind.
  std::int64_t total_bytes(MemoryKind kind) const;

 private:
  Account& account(Component component, std::string_view model, const TenantId& tenant,
                   Endpoint endpoint, MemoryKind kind);

  struct State;
  std::unique_ptr<State> state_;
};

// The ledger of this process. Tests may make their own.
Ledger& process_ledger();

// Holds a charge for as long as it lives. Move-only.
class Charge {
 public:
  Charge() = default;
  Charge(Account& account, std::uint64_t bytes) : account_(&account), bytes_(bytes) {
    account.charge(bytes);
  }
  Charge(Charge&& other) noexcept
      : account_(std::exchange(other.account_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&& other) noexcept {
    if (this != &other) {
      reset();
      account_ = std::exchange(other.account_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  ~Charge() { reset(); }

  std::uint64_t bytes() const { return bytes_; }
  // Changes the amount, for a buffer that grew or shrank.
  void resize(std::uint64_t bytes) {
    if (account_ == nullptr) return;
    if (bytes > bytes_) account_->charge(bytes - bytes_);
    if (bytes < bytes_) account_->release(bytes_ - bytes);
    bytes_ = bytes;
  }
  void reset() {
    if (account_ != nullptr) account_->release(bytes_);
    account_ = nullptr;
    bytes_ = 0;
  }

 private:
  Account* account_ = nullptr;
  std::uint64_t bytes_ = 0;
};

// Charges a file mapping for as long as it lives, and lets reports look up how much of it is in
// memory. Move-only; the mapping and the ledger outlive it.
class MappedCharge {
 public:
  MappedCharge() = default;
  MappedCharge(Ledger& ledger, Component component, std::string_view model, const void* data,
               std::uint64_t size);
  MappedCharge(MappedCharge&& other) noexcept;
  MappedCharge& operator=(MappedCharge&& other) noexcept;
  ~MappedCharge();

 private:
  Account* account_ = nullptr;
  const void* data_ = nullptr;
  Charge charge_;
};

}  // namespace plimsoll
