// A sequence's blocks, one row for each `block_tokens` of its tokens (kv_layout.h), with a
// reference to each. Who owns it gives them back: clear() before its end.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/kv/block_pool.h"

namespace plimsoll {

class BlockTable {
 public:
  std::span<const BlockId> ids() const { return ids_; }
  std::uint32_t rows() const { return rows_; }
  std::uint32_t held() const { return held_; }  // blocks

  // Rows whose references the caller has, for an empty table.
  void assign(std::vector<BlockId> ids, const KvLayout& layout) {
    ids_ = std::move(ids);
    rows_ = static_cast<std::uint32_t>(ids_.size()) / layout.layer_groups();
    held_ = passed_ = 0;
    for (const BlockId id : ids_) held_ += id != no_block;
    while (passed_ < rows_ && !has_windowed(passed_, layout)) ++passed_;
  }

  // A row more, charged to `owner`. False: the pool has too few blocks, and nothing is changed.
  bool add_row(BlockPool& pool, Account* owner) {
    const std::uint32_t groups = pool.layout().layer_groups();
    if (pool.free_count() < groups) return false;
    for (std::uint32_t g = 0; g < groups; ++g) ids_.push_back(*pool.allocate(owner));
    ++rows_;
    held_ += groups;
    return true;
  }

  // Whether pass() would give anything back.
  bool passes(const KvLayout& layout, std::uint32_t computed) const {
    return layout.first_kept_row(computed) > passed_;
  }
  // Gives back the windowed blocks that are of no more use where so many tokens are computed.
  void pass(BlockPool& pool, std::uint32_t computed) {
    const KvLayout& layout = pool.layout();
    for (const std::uint32_t first = layout.first_kept_row(computed); passed_ < first; ++passed_) {
      for (std::uint32_t g = layout.full_groups; g < layout.layer_groups(); ++g) {
        pool.release(std::exchange(ids_[passed_ * layout.layer_groups() + g], no_block));
      }
      held_ -= layout.windowed_groups;
    }
  }

  void clear(BlockPool& pool) {
    for (const BlockId id : ids_) {
      if (id != no_block) pool.release(id);
    }
    ids_.clear();
    rows_ = held_ = passed_ = 0;
  }

 private:
  bool has_windowed(std::uint32_t row, const KvLayout& layout) const {
    return ids_[(row + 1) * layout.layer_groups() - 1] != no_block;
  }

  std::vector<BlockId> ids_;
  std::uint32_t rows_ = 0, held_ = 0;
  std::uint32_t passed_ = 0;  // rows, whose windowed blocks were given back
};

}  // namespace plimsoll
