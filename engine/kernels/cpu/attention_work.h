// How attention() cuts a step into items that threads take one by one. Internal.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "engine/kernels/cpu/attention.h"

namespace plimsoll {

inline constexpr std::size_t attention_max_rows = 36;  // queries that share one pass over the keys
inline constexpr std::size_t attention_max_query_rows = 48;  // where 6 take the room of 8
inline constexpr std::size_t attention_tile_keys = 64;       // between two updates of the maximum
inline constexpr std::size_t attention_group_keys = 16;      // side by side in every layout
inline constexpr std::size_t attention_row_sums = 16;        // lanes of the widest vector

// A run of query rows of one sequence that share a KV head. With group = heads / kv_heads, row r
// is token r / group, head kv_head * group + r % group.
struct AttentionItem {
  std::size_t sequence = 0;
  std::size_t kv_head = 0;
  std::size_t first_row = 0;
  std::size_t rows = 0;  // 0: no more items
};

class AttentionWork {
 public:
  AttentionWork(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                std::size_t threads)
      : sequences_(sequences), kv_heads_(shape.kv_heads), group_(shape.heads / shape.kv_heads) {
    // Smaller items read the same keys more often; they pay where threads would stand idle.
    while (rows_per_item_ > 1 && count() < threads) rows_per_item_ /= 2;
  }

  // Walks through the items; `index` may only grow from call to call.
  class Cursor {
   public:
    explicit Cursor(const AttentionWork& work) : work_(work) {}
    AttentionItem at(std::size_t index) {
      while (sequence_ < work_.sequences_.size()) {
        const std::size_t items = work_.items(sequence_);
        if (index < before_ + items) break;
        before_ += items;
        ++sequence_;
      }
      if (sequence_ == work_.sequences_.size()) return {};
      const std::size_t rows = work_.rows(sequence_);
      const std::size_t tiles = (rows + work_.rows_per_item_ - 1) / work_.rows_per_item_;
      const std::size_t i = index - before_;
      // Last rows first: they see the most keys, and the longest work should not start last.
      const std::size_t first = (tiles - 1 - i % tiles) * work_.rows_per_item_;
      return {sequence_, i / tiles, first, std::min(work_.rows_per_item_, rows - first)};
    }

   private:
    const AttentionWork& work_;
    std::size_t sequence_ = 0;
    std::size_t before_ = 0;  // items of the sequences before this one
  };

 private:
  std::size_t rows(std::size_t sequence) const { return sequences_[sequence].tokens * group_; }
  std::size_t items(std::size_t sequence) const {
    return kv_heads_ * ((rows(sequence) + rows_per_item_ - 1) / rows_per_item_);
  }
  std::size_t count() const {
    std::size_t n = 0;
    for (std::size_t s = 0; s < sequences_.size(); ++s) n += items(s);
    return n;
  }

  std::span<const AttentionSequence> sequences_;
  std::size_t kv_heads_;
  std::size_t group_;
  std::size_t rows_per_item_ = attention_max_rows;
};

}  // namespace plimsoll
