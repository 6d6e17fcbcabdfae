// Large buffers that values have left behind, for the next values of the same size: what is written
// into one costs a copy, and not the kernel's making and clearing of its pages before. Bounded and
// charged; thread-safe, and nobody waits long: not for a writer that has the cache's mutex.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "engine/memory/ledger.h"

namespace plimsoll::storage {

class SpareBuffers {
 public:
  static constexpr std::size_t least_bytes = 64_KiB;  // a smaller one is had from the allocator

  SpareBuffers(std::uint64_t limit_bytes, Account& account)
      : limit_bytes_(limit_bytes), charge_(account, 0) {}

  // An empty string with room for exactly so many bytes; from the allocator if there is none.
  std::string take(std::size_t bytes);
  // Frees it instead where it is small, or would be over the limit.
  void give(std::string&& buffer);
  void clear();
  // If none was taken or given for so long.
  void clear_idle(std::chrono::steady_clock::duration time);
  std::uint64_t bytes() const;

 private:
  const std::uint64_t limit_bytes_;
  mutable std::mutex mutex_;
  std::vector<std::string> buffers_;
  std::chrono::steady_clock::time_point used_{};
  Charge charge_;
};

}  // namespace plimsoll::storage
