// The pool of KV blocks of one model on one node: fixed in bytes, reference-counted, paged
// (Kwon et al. 2023, "PagedAttention"). Owned by the engine loop: not thread-safe, except stats.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/kv/kv_layout.h"
#include "engine/memory/arena.h"

namespace plimsoll {

class BlockPool {
 public:
  // Holds as many blocks as fit in budget_bytes (at least one, else resource_exhausted with the
  // arithmetic). Address space is reserved at once; pages are touched as blocks are used, and the
  // account is charged by the block in use, not by the budget.
  static Result<BlockPool> make(const KvLayout& layout, std::uint64_t budget_bytes,
                                Account& account);

  BlockPool(BlockPool&&) noexcept;
  BlockPool& operator=(BlockPool&&) noexcept;
  ~BlockPool();

  const KvLayout& layout() const { return layout_; }
  std::byte* data() const {
    return data_;
  }  // block b starts at data() + b * layout().block_bytes()

  std::uint32_t capacity() const;    // blocks in all
  std::uint32_t free_count() const;  // blocks that allocate() can still give
  std::uint32_t references(BlockId id) const;

  // A block with one reference, contents undefined. While it is held, also by others later, its
  // bytes are charged to `owner` (null: the pool's account), which outlives the pool.
  // Errors: resource_exhausted.
  Result<BlockId> allocate(Account* owner = nullptr);
  void retain(BlockId id);
  void release(BlockId id);  // back to the pool with the last reference
  // Copy-on-write: the block itself if the caller holds the only reference, else a fresh copy (the
  // caller's reference to `id` is released). Errors: resource_exhausted; the reference is kept.
  Result<BlockId> writable(BlockId id);

  // Gives the pages of free blocks back to the kernel; returns how many bytes.
  std::uint64_t trim();

 private:
  BlockPool() = default;
  KvLayout layout_;
  std::byte* data_ = nullptr;
  std::uint64_t mapped_bytes_ = 0;
  Account* account_ = nullptr;  // of the blocks that nobody holds
  std::vector<Account*> owners_;
  std::vector<std::uint32_t> references_;
  std::vector<BlockId> free_;  // last in, first out: warm pages are reused first
  std::vector<bool> touched_;  // whether the block's pages have been used since the last trim
};

}  // namespace plimsoll
