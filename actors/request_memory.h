// The memory that requests take before they are tokens, and answers that are kept whole: bodies,
// what a parser makes of them, texts, what a tokenizer needs. One budget for the process, taken
// before the memory is, and small enough for what the pressure ladder keeps free: bodies come
// faster than a governor looks.
//
// A tenant may hold half of what the others leave. So n tenants that want everything get an
// (n + 1)-th each, and as much is left for whoever comes next.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// A budget for a process under this limit (0: not known), whose largest body is `body_bytes`.
std::uint64_t request_memory_bytes(std::uint64_t limit_bytes, std::uint64_t body_bytes);

// Thread-safe.
class RequestMemory {
 public:
  explicit RequestMemory(std::uint64_t limit_bytes) : limit_(limit_bytes) {}
  std::uint64_t limit_bytes() const { return limit_; }
  // What one tenant can get where nobody else holds anything.
  std::uint64_t most_bytes() const { return limit_ / 2; }
  std::uint64_t held_bytes() const;

 private:
  friend class RequestLease;
  bool take(const TenantId& tenant, std::uint64_t bytes);
  void add(const TenantId& tenant, std::uint64_t bytes);  // whatever the limit says
  void give_back(const TenantId& tenant, std::uint64_t bytes);

  const std::uint64_t limit_;
  mutable std::mutex mutex_;
  std::uint64_t held_ = 0;
  std::unordered_map<std::string, std::uint64_t> tenants_;  // of those that hold something
};

// The server's memory for requests is taken: come again, or never if so much never fits.
Error request_memory_taken(const RequestMemory& memory, std::uint64_t bytes);

// A part of the budget, and of a tenant's account, for as long as it lives. Move-only.
class RequestLease {
 public:
  RequestLease() = default;
  RequestLease(RequestMemory& memory, TenantId tenant, Account& account)
      : memory_(&memory), tenant_(std::move(tenant)), charge_(account, 0) {}
  RequestLease(RequestLease&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)),
        tenant_(std::move(other.tenant_)),
        bytes_(std::exchange(other.bytes_, 0)),
        charge_(std::move(other.charge_)) {}
  RequestLease& operator=(RequestLease&& other) noexcept {
    reset();
    memory_ = std::exchange(other.memory_, nullptr);
    tenant_ = std::move(other.tenant_);
    bytes_ = std::exchange(other.bytes_, 0);
    charge_ = std::move(other.charge_);
    return *this;
  }
  ~RequestLease() { reset(); }

  std::uint64_t bytes() const { return bytes_; }
  // Holds `bytes` in all, or more; false, and nothing changed, if they are not to be had.
  bool hold(std::uint64_t bytes);
  // Holds so many in all, for what is there already.
  void resize(std::uint64_t bytes);
  void reset();
  // The ledger's charge, for whoever has the memory from now on. The budget is held on.
  Charge hand_over() { return std::move(charge_); }

 private:
  RequestMemory* memory_ = nullptr;
  TenantId tenant_;
  std::uint64_t bytes_ = 0;
  Charge charge_;
};

}  // namespace plimsoll
