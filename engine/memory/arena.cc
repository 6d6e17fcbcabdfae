#include "engine/memory/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

namespace plimsoll {

Result<Arena> Arena::make(Account& account, std::uint64_t bytes) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t size = (bytes + page - 1) / page * page;
  Arena arena;
  arena.charge_ = Charge(account, size);
  if (size == 0) return arena;
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return fail(ErrorCode::resource_exhausted,
                "the kernel refused " + std::to_string(size) + " bytes: " + std::strerror(errno));
  }
  arena.data_ = static_cast<std::byte*>(data);
  arena.size_ = size;
  arena.account_ = &account;
  account.add_region(data, size);
  return arena;
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(used_, other.used_);
  std::swap(account_, other.account_);
  std::swap(charge_, other.charge_);
  return *this;
}

Arena::~Arena() {
  if (data_ == nullptr) return;
  account_->remove_region(data_);
  munmap(data_, size_);
}

std::byte* Arena::take_bytes(std::uint64_t bytes) {
  const std::uint64_t begin = (used_ + 63) / 64 * 64;
  assert(begin <= size_ && bytes <= size_ - begin);
  used_ = begin + bytes;
  return data_ + begin;
}

void Arena::discard(std::uint64_t offset, std::uint64_t bytes) {
  assert(offset <= size_ && bytes <= size_ - offset);
  // Whole pages inside the range only: what shares a page with it stays.
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = (offset + page - 1) / page * page;
  const std::uint64_t end = (offset + bytes) / page * page;
  if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace plimsoll
