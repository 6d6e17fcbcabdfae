#include "actors/request_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "cluster/pressure.h"

namespace plimsoll {

std::uint64_t request_memory_bytes(std::uint64_t limit_bytes, std::uint64_t body_bytes) {
  const std::uint64_t most = std::max<std::uint64_t>(256_MiB, 8 * body_bytes);
  if (limit_bytes == 0) return most;
  // The other half is for what grows between two looks of the governor.
  const auto orange = cluster::begins_at({}, cluster::Level::orange, limit_bytes);
  return std::min(most, (limit_bytes - orange) / 2);
}

std::uint64_t RequestMemory::held_bytes() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

bool RequestMemory::take(const TenantId& tenant, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto it = tenants_.find(tenant.get());
  const std::uint64_t own = it == tenants_.end() ? 0 : it->second;
  const std::uint64_t others = held_ - own;
  if (others > limit_ || own + bytes > (limit_ - others) / 2) return false;
  held_ += bytes;
  tenants_[tenant.get()] += bytes;
  return true;
}

void RequestMemory::add(const TenantId& tenant, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  held_ += bytes;
  tenants_[tenant.get()] += bytes;
}

void RequestMemory::give_back(const TenantId& tenant, std::uint64_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  held_ -= bytes;
  const auto it = tenants_.find(tenant.get());
  it->second -= bytes;
  if (it->second == 0) tenants_.erase(it);
}

Error request_memory_taken(const RequestMemory& memory, std::uint64_t bytes) {
  const bool never = bytes > memory.most_bytes();
  return Error(ErrorCode::resource_exhausted,
               fmt::format("the request takes {} bytes while it is read, {}", bytes,
                           never ? fmt::format("and this server has {} at most for that: send a "
                                               "smaller one",
                                               memory.most_bytes())
                                 : "which others have taken at present"))
      .with_reason("request_memory")
      .retry_after(never ? 0 : 1000);
}

bool RequestLease::hold(std::uint64_t bytes) {
  if (bytes <= bytes_) return true;
  if (!memory_->take(tenant_, bytes - bytes_)) return false;
  bytes_ = bytes;
  charge_.resize(bytes);
  return true;
}

void RequestLease::resize(std::uint64_t bytes) {
  if (memory_ == nullptr) return;
  if (bytes > bytes_) memory_->add(tenant_, bytes - bytes_);
  if (bytes < bytes_) memory_->give_back(tenant_, bytes_ - bytes);
  bytes_ = bytes;
  charge_.resize(bytes);
}

void RequestLease::reset() {
  resize(0);
  charge_.reset();
  memory_ = nullptr;
}

}  // namespace plimsoll
