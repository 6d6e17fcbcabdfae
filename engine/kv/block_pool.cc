#include "engine/kv/block_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace plimsoll {

Result<BlockPool> BlockPool::make(const KvLayout& layout, std::uint64_t budget_bytes,
                                  Account& account) {
  const std::uint64_t block_bytes = layout.block_bytes();
  const std::uint64_t blocks = budget_bytes / block_bytes;
  if (blocks == 0) {
    return fail(ErrorCode::resource_exhausted, "a KV budget of " + std::to_string(budget_bytes) +
                                                   " bytes holds no block: one of " +
                                                   std::to_string(layout.block_tokens) +
                                                   " tokens needs " + std::to_string(block_bytes));
  }
  if (blocks > (1U << 31)) {
    return fail(ErrorCode::invalid_argument, "a KV budget of " + std::to_string(budget_bytes) +
                                                 " bytes makes more than 2^31 blocks");
  }
  const std::uint64_t bytes = blocks * block_bytes;
  // Address space only: pages come when a block is first written, and are charged then.
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return fail(ErrorCode::resource_exhausted, "the kernel refused " + std::to_string(bytes) +
                                                   " bytes for KV: " + std::strerror(errno));
  }
#ifdef MADV_NOHUGEPAGE
  // A huge page would make memory resident that no block uses and no account is charged for. A
  // kernel without them refuses, which is as good.
  madvise(data, bytes, MADV_NOHUGEPAGE);
#endif
  BlockPool pool;
  pool.layout_ = layout;
  pool.data_ = static_cast<std::byte*>(data);
  pool.mapped_bytes_ = bytes;
  pool.account_ = &account;
  pool.references_.resize(blocks);
  pool.owners_.resize(blocks, &account);
  pool.touched_.resize(blocks);
  pool.free_.reserve(blocks);
  for (std::uint64_t i = blocks; i > 0; --i) {
    pool.free_.emplace_back(static_cast<std::uint32_t>(i - 1));
  }
  return pool;
}

BlockPool::BlockPool(BlockPool&& other) noexcept { *this = std::move(other); }

BlockPool& BlockPool::operator=(BlockPool&& other) noexcept {
  std::swap(layout_, other.layout_);
  std::swap(data_, other.data_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(account_, other.account_);
  std::swap(owners_, other.owners_);
  std::swap(references_, other.references_);
  std::swap(free_, other.free_);
  std::swap(touched_, other.touched_);
  return *this;
}

BlockPool::~BlockPool() {
  if (data_ == nullptr) return;
  munmap(data_, mapped_bytes_);
  for (std::uint32_t block = 0; block < capacity(); ++block) {
    if (touched_[block]) owners_[block]->release(layout_.block_bytes());
  }
}

std::uint32_t BlockPool::capacity() const { return static_cast<std::uint32_t>(references_.size()); }
std::uint32_t BlockPool::free_count() const { return static_cast<std::uint32_t>(free_.size()); }
std::uint32_t BlockPool::references(BlockId id) const { return references_[id.get()]; }

Result<BlockId> BlockPool::allocate(Account* owner) {
  if (free_.empty()) {
    return fail(ErrorCode::resource_exhausted,
                "all " + std::to_string(capacity()) + " KV blocks are in use");
  }
  const BlockId id = free_.back();
  free_.pop_back();
  references_[id.get()] = 1;
  if (touched_[id.get()]) account_->release(layout_.block_bytes());
  touched_[id.get()] = true;
  owners_[id.get()] = owner != nullptr ? owner : account_;
  owners_[id.get()]->charge(layout_.block_bytes());
  return id;
}

void BlockPool::retain(BlockId id) {
  assert(references_[id.get()] > 0);
  ++references_[id.get()];
}

void BlockPool::release(BlockId id) {
  assert(references_[id.get()] > 0);
  if (--references_[id.get()] > 0) return;
  owners_[id.get()]->release(layout_.block_bytes());
  owners_[id.get()] = account_;
  account_->charge(layout_.block_bytes());
  free_.push_back(id);
}

Result<BlockId> BlockPool::writable(BlockId id) {
  assert(references_[id.get()] > 0);
  if (references_[id.get()] == 1) return id;
  auto copy = allocate(owners_[id.get()]);
  if (!copy) return copy;
  const std::uint64_t bytes = layout_.block_bytes();
  std::memcpy(data_ + copy->get() * bytes, data_ + id.get() * bytes, bytes);
  release(id);
  return copy;
}

std::uint64_t BlockPool::trim() {
  // Blocks do not end on page borders: a page goes only if every block on it is free. So free
  // neighbours are taken together, and a block's charge is released once its whole run is gone.
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t bytes = layout_.block_bytes();
  std::uint64_t freed = 0;
  for (std::uint32_t first = 0; first < capacity();) {
    if (references_[first] != 0) {
      ++first;
      continue;
    }
    std::uint32_t last = first;
    while (last < capacity() && references_[last] == 0) ++last;
    const std::uint64_t begin = (first * bytes + page - 1) / page * page;
    const std::uint64_t end = last == capacity() ? mapped_bytes_ : last * bytes / page * page;
    if (begin < end) {
      madvise(data_ + begin, end - begin, MADV_DONTNEED);
      for (std::uint32_t block = first; block < last; ++block) {
        if (!touched_[block]) continue;
        touched_[block] = false;
        account_->release(bytes);
        freed += bytes;
      }
    }
    first = last;
  }
  return freed;
}

}  // namespace plimsoll
