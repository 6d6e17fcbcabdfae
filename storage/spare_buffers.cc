#include "storage/spare_buffers.h"

#include <algorithm>
#include <utility>

namespace plimsoll::storage {

std::string SpareBuffers::take(std::size_t bytes) {
  std::string buffer;
  if (bytes >= least_bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(buffers_, bytes, &std::string::capacity);
    if (found != buffers_.end()) {
      charge_.resize(charge_.bytes() - bytes);
      used_ = std::chrono::steady_clock::now();
      std::swap(*found, buffers_.back());
      buffer = std::move(buffers_.back());
      buffers_.pop_back();
    }
  }
  buffer.clear();
  buffer.reserve(bytes);
  return buffer;
}

void SpareBuffers::give(std::string&& buffer) {
  const auto bytes = buffer.capacity();
  const std::lock_guard lock(mutex_);
  if (bytes < least_bytes || charge_.bytes() + bytes > limit_bytes_) return;
  charge_.resize(charge_.bytes() + bytes);
  buffers_.push_back(std::move(buffer));
  used_ = std::chrono::steady_clock::now();
}

void SpareBuffers::clear() {
  std::vector<std::string> freed;
  const std::lock_guard lock(mutex_);
  freed.swap(buffers_);
  charge_.resize(0);
}

void SpareBuffers::clear_idle(std::chrono::steady_clock::duration time) {
  {
    const std::lock_guard lock(mutex_);
    if (std::chrono::steady_clock::now() < used_ + time) return;
  }
  clear();
}

std::uint64_t SpareBuffers::bytes() const {
  const std::lock_guard lock(mutex_);
  return charge_.bytes();
}

}  // namespace plimsoll::storage
