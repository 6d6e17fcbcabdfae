// The query rows of an item: where they lie, what they see, and how they are prepared; per target
// (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_ATTENTION_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_ROWS_INL_H
#undef PLIMSOLL_ATTENTION_ROWS_INL_H
#else
#define PLIMSOLL_ATTENTION_ROWS_INL_H
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "engine/kernels/cpu/attention.h"
#include "engine/kernels/cpu/attention_scratch.h"
#include "engine/kernels/cpu/attention_tile-inl.h"
#include "engine/kernels/cpu/attention_work.h"
#include "engine/kernels/cpu/rotate-inl.h"
#include "engine/kernels/cpu/transpose-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The rows of an item: where they lie, and the keys they see.
class Rows {
 public:
  Rows(const AttentionShape& shape, const AttentionSequence& sequence, bool causal,
       const AttentionItem& item)
      : count_(item.rows), head_dim_(shape.head_dim) {
    const std::size_t group = shape.heads / shape.kv_heads;
    std::size_t token = item.first_row / group, head = item.first_row % group;
    for (std::size_t r = 0; r < count_; ++r) {
      const std::size_t end = sequence.start_position + (causal ? token + 1 : sequence.tokens);
      const std::size_t first = shape.window > 0 && end > shape.window ? end - shape.window : 0;
      at_[r] = {token, item.kv_head * group + head, first, end};
      if (r == 0) first_key_ = first;
      end_key_ = end;
      if (++head < group) continue;
      head = 0;
      ++token;
    }
  }

  std::size_t count() const { return count_; }
  // Of row r in [tokens, heads, head_dim] with a stride.
  std::size_t offset(std::size_t r, std::size_t stride) const {
    return at_[r].token * stride + at_[r].head * head_dim_;
  }
  std::size_t first_key() const { return first_key_; }
  std::size_t end_key() const { return end_key_; }
  bool sees_segment(std::size_t r, std::size_t segment) const {
    return first_segment(r) <= segment && segment <= last_segment(r);
  }
  std::size_t first_segment(std::size_t r) const {
    return at_[r].first_key / attention_segment_keys;
  }
  std::size_t last_segment(std::size_t r) const {
    return (at_[r].end_key - 1) / attention_segment_keys;
  }
  // What some of all rows, or of rows [r, r + n), see of the tile from key `first` on.
  Keys seen(std::size_t first) const { return of_tile(first, first_key(), end_key_); }
  Keys seen(std::size_t r, std::size_t n, std::size_t first) const {
    return of_tile(first, at_[r].first_key, at_[r + n - 1].end_key);
  }

 private:
  struct Row {
    std::size_t token;
    std::size_t head;
    std::size_t first_key;
    std::size_t end_key;  // one more than the last that is seen
  };

  static Keys of_tile(std::size_t first, std::size_t begin, std::size_t end) {
    return {std::max(begin, first) - first, std::min(std::max(end, first) - first, tile_keys)};
  }

  std::size_t count_;
  std::size_t head_dim_;
  std::size_t first_key_ = 0;
  std::size_t end_key_ = 0;
  std::array<Row, attention_max_rows> at_;
};

// Makes of a row of q what goes with int4 keys: rotated as they are, and its sums by group.
HWY_INLINE void PrepareInt4Query(float* q, std::size_t head_dim, float* sums) {
  Rotate(q, head_dim);
  for (std::size_t first = 0; first < head_dim; first += group_columns) {
    float sum = 0;
    for (std::size_t i = first; i < std::min(head_dim, first + group_columns); ++i) sum += q[i];
    *sums++ = sum;
  }
}

// Queries times the scale, as Score() takes them.
template <class T>
HWY_INLINE void PrepareQueries(const AttentionShape& shape, const float* q, std::size_t q_stride,
                               const Rows& rows, const AttentionScratch& scratch) {
  const std::size_t head_dim = shape.head_dim;
  const auto query = [&](std::size_t r) { return q + rows.offset(r, q_stride); };
  // They lie in many short pieces, which no processor foresees.
  for (std::size_t r = 0; r < rows.count(); ++r) {
    for (std::size_t i = 0; i < head_dim; i += 16) hwy::Prefetch(query(r) + i);
  }
  const std::size_t stride = (head_dim + lanes - 1) / lanes * lanes;
  float scaled[query_rows * max_head_dim];
  for (std::size_t first = 0; first < rows.count(); first += row_step) {
    const std::size_t n = std::min(row_step, rows.count() - first);
    for (std::size_t r = 0; r < n; ++r) {
      const float* const from = query(first + r);
      float* const to = scaled + r * stride;
      for (std::size_t i = 0; i < head_dim; ++i) to[i] = from[i] * shape.scale;
      if constexpr (std::is_same_v<T, Int4Pair>) {
        PrepareInt4Query(to, head_dim, scratch.q_sums(first + r));
      }
      if constexpr (is_bf16<T>) {
        std::fill(to + head_dim, to + stride, 0.0F);
        for (std::size_t i = 0; i < stride; i += lanes)
          StoreFactors<T>(hn::LoadU(D(), to + i), i, to);
      }
    }
    // Four rows at a time are transposed fast.
    const std::size_t whole = (n + 3) / 4 * 4;
    std::memset(scaled + n * stride, 0, (whole - n) * stride * sizeof(float));
    Transpose(scaled, stride, whole, std::is_same_v<T, NativeBf16Pair> ? head_dim / 2 : head_dim,
              scratch.queries() + first / row_step * query_rows * head_dim, query_rows);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
