// A fixed-size, 64-byte aligned region from the kernel, charged to the ledger before it is mapped.
// Pages cost nothing until touched. Used for what a step needs, sized once from the caps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

class Arena {
 public:
  Arena() = default;
  // Errors: resource_exhausted if the kernel refuses. The account must outlive the arena.
  static Result<Arena> make(Account& account, std::uint64_t bytes);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  std::uint64_t used() const { return used_; }

  // The next `count` objects, uninitialised, 64-byte aligned. Taking more than size() is a
  // programming error (asserted): the sizing code is wrong.
  template <class T>
  std::span<T> take(std::size_t count) {
    return {reinterpret_cast<T*>(take_bytes(count * sizeof(T))), count};
  }
  void reset() { used_ = 0; }

  // Gives the pages of [offset, offset+bytes) back to the kernel; they read as zero afterwards.
  void discard(std::uint64_t offset, std::uint64_t bytes);

 private:
  std::byte* take_bytes(std::uint64_t bytes);
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  std::uint64_t used_ = 0;
  Account* account_ = nullptr;
  Charge charge_;
};

}  // namespace plimsoll
