// How attention() cuts a step into items that threads take one by one. Internal.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>

#include "engine/kernels/cpu/attention.h"

namespace plimsoll {

inline constexpr std::size_t attention_max_rows = 36;  // queries that share one pass over the keys
inline constexpr std::size_t attention_max_query_rows = 48;  // where 6 take the room of 8
inline constexpr std::size_t attention_tile_keys = 64;       // between two updates of the maximum
inline constexpr std::size_t attention_group_keys = 16;      // side by side in every layout
inline constexpr std::size_t attention_row_sums = 16;        // lanes of the widest vector

// Keys [0, 256), [256, 512) and so on of a sequence are a segment each. A row's result is put
// together from its segments, in their order, whichever threads computed them.
inline constexpr std::size_t attention_segment_keys = 256;
// Where there are few items, threads take their segments one by one, of at most so many rows:
inline constexpr std::size_t attention_piece_rows = 8;
inline constexpr std::size_t attention_pieces_per_thread = 16;
inline constexpr std::size_t attention_piece_items_per_thread = 4;

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

// One segment of the keys of an item.
struct AttentionPiece {
  AttentionItem item;
  std::size_t item_index = 0;
  std::size_t segment = 0;
};

// The pieces of a step of few rows a sequence: an item is a sequence's KV head. In the order of
// items, and of an item in that of its segments.
class AttentionPieces {
 public:
  AttentionPieces(const AttentionShape& shape, std::span<const AttentionSequence> sequences)
      : sequences_(sequences), shape_(shape) {}

  // Whether threads would have too little to take in items, and segments are enough.
  bool worthwhile(std::size_t threads) const {
    if (threads == 1) return false;
    if (sequences_.size() * shape_.kv_heads >= attention_piece_items_per_thread * threads)
      return false;
    std::size_t most_keys = 0;
    for (const AttentionSequence& s : sequences_) {
      if (s.tokens * group() > attention_piece_rows) return false;
      most_keys = std::max(most_keys, end_key(s) - first_key(s));
    }
    return most_keys >= 2 * attention_segment_keys;
  }

  std::size_t count() const {
    std::size_t n = 0;
    for (const AttentionSequence& s : sequences_) n += shape_.kv_heads * segments(s);
    return n;
  }

  AttentionPiece at(std::size_t index) const {
    for (std::size_t sequence = 0;; ++sequence) {
      const AttentionSequence& s = sequences_[sequence];
      const std::size_t of_head = segments(s);
      if (index >= shape_.kv_heads * of_head) {
        index -= shape_.kv_heads * of_head;
        continue;
      }
      assert(of_head > 0);
      const std::size_t kv_head = index / of_head;
      return {.item = {sequence, kv_head, 0, s.tokens * group()},
              .item_index = sequence * shape_.kv_heads + kv_head,
              .segment = first_key(s) / attention_segment_keys + index % of_head};
    }
  }

 private:
  std::size_t group() const { return shape_.heads / shape_.kv_heads; }
  std::size_t end_key(const AttentionSequence& s) const { return s.start_position + s.tokens; }
  std::size_t first_key(const AttentionSequence& s) const {
    const std::size_t end = s.start_position + 1;
    return shape_.window > 0 && end > shape_.window ? end - shape_.window : 0;
  }
  std::size_t segments(const AttentionSequence& s) const {
    if (s.tokens == 0) return 0;
    return (end_key(s) - 1) / attention_segment_keys - first_key(s) / attention_segment_keys + 1;
  }

  std::span<const AttentionSequence> sequences_;
  const AttentionShape& shape_;
};

}  // namespace plimsoll
