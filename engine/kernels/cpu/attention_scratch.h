// What a thread keeps while it attends to the rows of one item. Internal.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/attention_work.h"
#include "engine/kv/kv_layout.h"

namespace plimsoll {

// What a segment of keys makes of a row: its output, not yet divided, the largest score and the sum
// of the weights; in whole cache lines.
constexpr std::size_t attention_part_floats(std::size_t head_dim) {
  return (head_dim + 2 + 15) / 16 * 16;
}

// Every array begins on a cache line.
class AttentionScratch {
 public:
  // `memory` has floats() floats. Without it only floats() has a meaning.
  explicit AttentionScratch(std::size_t head_dim, float* memory = nullptr)
      : head_dim_(head_dim),
        groups_(KvLayout{.head_dim = static_cast<uint32_t>(head_dim)}.groups()) {
    constexpr std::size_t rows = attention_max_rows, keys = attention_tile_keys;
    const auto take = [&](std::size_t n) {
      const std::size_t at = floats_;
      floats_ += whole_lines(n);
      return at;
    };
    queries_ = take(attention_max_query_rows * head_dim);
    out_ = take(rows * head_dim);
    total_ = take(rows * attention_part_floats(head_dim));
    scores_ = take(rows * keys);
    sums_ = take(rows * attention_row_sums);
    largest_ = take(rows);
    next_ = take(rows);
    correction_ = take(rows);
    k_ = take(keys * head_dim);
    scales_ = take(2 * groups_ * keys);
    q_sums_ = take(rows * groups_);
    floats_ += line;  // for what `memory` is beside a cache line
    if (memory == nullptr) return;
    const std::size_t beside = reinterpret_cast<std::uintptr_t>(memory) / sizeof(float) % line;
    memory_ = memory + (line - beside) % line;
  }
  std::size_t floats() const { return floats_; }

  // [head_dim, query_rows] for each run of rows that are computed together: queries times the
  // scale; as pairs of bfloat16 [head_dim / 2, query_rows].
  float* queries() const { return memory_ + queries_; }
  // Of row r: [head_dim], the output of a segment, not yet divided by the sum of the weights.
  float* out(std::size_t r) const { return memory_ + out_ + r * head_dim_; }
  // [part_floats]: what the segments before this one made, where there were some.
  float* total(std::size_t r) const {
    return memory_ + total_ + r * attention_part_floats(head_dim_);
  }
  // [tile_keys]: the scores of a tile, then the weights; these as pairs of bfloat16 [tile_keys /
  // 2].
  float* scores(std::size_t r) const { return memory_ + scores_ + r * attention_tile_keys; }
  // The weights so far, of each lane of a vector.
  float* sums(std::size_t r) const { return memory_ + sums_ + r * attention_row_sums; }
  // [groups]: of q, over a group of columns (int4).
  float* q_sums(std::size_t r) const { return memory_ + q_sums_ + r * groups_; }

  // Of all rows, in whole vectors: the largest score so far, and with this tile; what the outputs
  // so far are to be multiplied with.
  float* largest() const { return memory_ + largest_; }
  float* next() const { return memory_ + next_; }
  float* correction() const { return memory_ + correction_; }

  // [tile_groups, head_dim, group_keys]: keys that had to be transposed.
  float* k() const { return memory_ + k_; }
  // [2 (of keys, of values), tile_keys] (int8) or of values [2 (scales, minima), groups, tile_keys]
  // (int4).
  float* scales() const { return memory_ + scales_; }

 private:
  static constexpr std::size_t line = 16;
  static constexpr std::size_t whole_lines(std::size_t n) { return (n + line - 1) / line * line; }

  std::size_t head_dim_;
  std::size_t groups_;
  std::size_t floats_ = 0;
  std::size_t queries_, out_, total_, scores_, sums_, largest_, next_, correction_, k_, scales_,
      q_sums_;
  float* memory_ = nullptr;
};

}  // namespace plimsoll
