#include "engine/kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cfloat>
#include <cstring>
#include <type_traits>

#include "engine/kernels/cpu/attention_scratch.h"
#include "engine/kernels/cpu/attention_work.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/attention.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/attention_products-inl.h"
#include "engine/kernels/cpu/attention_rows-inl.h"
#include "engine/kernels/cpu/attention_softmax-inl.h"
#include "engine/kernels/cpu/attention_sources-inl.h"
#include "engine/kernels/cpu/attention_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// f(first, std::integral_constant<rows>) for each run of at most row_step rows.
template <class F>
HWY_INLINE void ForRows(std::size_t rows, F f) {
  std::size_t r = 0;
  for (; r + row_step <= rows; r += row_step) {
    f(r, std::integral_constant<std::size_t, row_step>());
  }
  switch (rows - r) {
    case 5:
      if constexpr (row_step > 5) f(r, std::integral_constant<std::size_t, 5>());
      break;
    case 4:
      if constexpr (row_step > 4) f(r, std::integral_constant<std::size_t, 4>());
      break;
    case 3: f(r, std::integral_constant<std::size_t, 3>()); break;
    case 2: f(r, std::integral_constant<std::size_t, 2>()); break;
    case 1: f(r, std::integral_constant<std::size_t, 1>()); break;
    default: break;
  }
}

// One tile against all rows: scores, weights, and what they add to the outputs.
template <class T>
HWY_INLINE void AttendTile(const AttentionShape& shape, const Rows& rows, std::size_t first,
                           const Tile<T>& tile, const AttentionScratch& scratch) {
  const std::size_t head_dim = shape.head_dim;
  // f(r, number, keys) for each run of rows that see some.
  const auto for_rows = [&](auto f) HWY_ATTR {
    ForRows(rows.count(), [&](std::size_t r, auto n) HWY_ATTR {
      const Keys keys = rows.seen(r, n(), first);
      if (!keys.none()) f(r, n, keys);
    });
  };

  for_rows([&](std::size_t r, auto n, const Keys& keys) HWY_ATTR {
    Score<n()>(scratch.queries() + r / row_step * query_rows * head_dim, scratch.q_sums(r),
               head_dim, tile, keys, scratch.scores(r));
  });

  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  if constexpr (std::is_same_v<T, std::int8_t>) {
    k_scales = tile.k_scales;
    v_scales = tile.v_scales;
  }
  std::copy_n(scratch.largest(), rows.count(), scratch.next());
  for_rows([&](std::size_t r, auto n, const Keys& keys) HWY_ATTR {
    Keys of_rows[row_step];
    for (std::size_t i = 0; i < n(); ++i) of_rows[i] = rows.seen(r + i, 1, first);
    ForGroups<tile_groups>(keys, [&](std::size_t g, auto groups) HWY_ATTR {
      FinishScores<groups()>(k_scales, shape.softcap, g * group_keys, n(), of_rows,
                             scratch.scores(r), scratch.largest() + r, scratch.next() + r);
    });
  });
  Correct(rows.count(), scratch.next(), scratch.largest(), scratch.correction());
  for_rows([&](std::size_t r, auto n, const Keys& keys) HWY_ATTR {
    ForGroups<tile_groups>(keys, [&](std::size_t g, auto groups) HWY_ATTR {
      Weigh<groups()>(v_scales, g * group_keys, n(), scratch.next() + r, scratch.correction() + r,
                      scratch.scores(r), scratch.sums(r));
    });
  });

  for_rows([&](std::size_t r, auto n, const Keys& keys) HWY_ATTR {
    Accumulate<n()>(scratch.scores(r), tile, keys, head_dim, scratch.correction() + r,
                    scratch.out(r));
  });
}

// The rows of one item against all keys they see; tile_at(first, seen) is the tile that begins at
// key `first`, of which some row sees keys `seen`.
template <class T, class TileAt>
HWY_INLINE void AttendRows(const AttentionShape& shape, const AttentionSequence& sequence,
                           std::size_t q_stride, std::size_t out_stride, bool causal,
                           const AttentionItem& item, const AttentionScratch& scratch,
                           TileAt tile_at) {
  const D d;
  const std::size_t head_dim = shape.head_dim;
  const Rows rows(shape, sequence, causal, item);
  PrepareQueries<T>(shape, sequence.q, q_stride, rows, scratch);
  std::memset(scratch.out(0), 0, item.rows * head_dim * sizeof(float));
  std::memset(scratch.sums(0), 0, item.rows * attention_row_sums * sizeof(float));
  // Not -infinity: a difference of two of those is NaN.
  std::fill_n(scratch.largest(), item.rows, -FLT_MAX);

  const std::size_t end = rows.end_key();
  for (std::size_t first = rows.first_key() / tile_keys * tile_keys; first < end;
       first += tile_keys) {
    AttendTile(shape, rows, first, tile_at(first, rows.seen(0, item.rows, first)), scratch);
  }

  for (std::size_t r = 0; r < item.rows; ++r) {
    float* const out = sequence.out + rows.offset(r, out_stride);
    const float factor = 1.0F / hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, scratch.sums(r))));
    for (std::size_t i = 0; i < head_dim; ++i) out[i] = scratch.out(r)[i] * factor;
  }
}

void AttendPaged(const AttentionShape& shape, const KvLayout& layout, const std::byte* pool_data,
                 std::uint32_t layer, const AttentionSequence& sequence, const AttentionItem& item,
                 std::size_t stride, float* memory) {
  const AttentionScratch scratch(shape.head_dim, memory);
  const auto attend = [&](auto element) HWY_ATTR {
    using T = decltype(element);
    AttendRows<T>(
        shape, sequence, stride, stride, true, item, scratch,
        PagedTiles<T>(layout, pool_data, layer, item.kv_head, sequence.blocks, scratch.scales()));
  };
  switch (layout.type) {
    case KvType::f16: attend(hwy::float16_t()); break;
    case KvType::int8: attend(std::int8_t()); break;
    case KvType::int4: attend(Int4Pair()); break;
  }
}

void AttendPlain(const AttentionShape& shape, const AttentionSequence& sequence, const float* k,
                 const float* v, const AttentionItem& item, std::size_t stride,
                 std::size_t out_stride, float* memory) {
  const AttentionScratch scratch(shape.head_dim, memory);
  const std::size_t head = item.kv_head * shape.head_dim;
  AttendRows<float>(shape, sequence, stride, out_stride, false, item, scratch,
                    [&](std::size_t first, const Keys& seen) HWY_ATTR {
                      return PlainTile(k + head, v + head, stride, shape.head_dim, first, seen,
                                       scratch.k());
                    });
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(AttendPaged);
HWY_EXPORT(AttendPlain);

namespace {

// attend(item, scratch) for every item, taken by the threads one by one.
template <class F>
void for_each_item(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                   std::span<float> scratch, ThreadPool& pool, F attend) {
  assert(shape.heads % shape.kv_heads == 0 && shape.head_dim <= max_head_dim);
  const std::size_t per_thread = attention_scratch_floats(shape);
  assert(scratch.size() >= per_thread * pool.threads());
  const AttentionWork work(shape, sequences, pool.threads());
  std::atomic<std::size_t> next{0};
  pool.run([&](int rank) {
    AttentionWork::Cursor cursor(work);
    for (;;) {
      const AttentionItem item = cursor.at(next.fetch_add(1, std::memory_order_relaxed));
      if (item.rows == 0) return;
      attend(item, scratch.data() + rank * per_thread);
    }
  });
}

}  // namespace

std::size_t attention_scratch_floats(const AttentionShape& shape) {
  return AttentionScratch(shape.head_dim).floats();
}

void attention(const AttentionShape& shape, const KvLayout& layout, const std::byte* pool_data,
               std::uint32_t layer, std::span<const AttentionSequence> sequences,
               std::size_t row_stride, std::span<float> scratch, ThreadPool& pool) {
  assert(shape.kv_heads == layout.kv_heads && shape.head_dim == layout.head_dim);
  assert(layout.block_tokens % attention_group_keys == 0);
  assert(layout.type != KvType::int4 || layout.head_dim % 2 == 0);
  const auto attend = PLIMSOLL_DISPATCH(AttendPaged);
  for_each_item(shape, sequences, scratch, pool, [&](const AttentionItem& item, float* memory) {
    const AttentionSequence& sequence = sequences[item.sequence];
    assert(sequence.blocks.size() >
           layout.table_index(sequence.start_position + sequence.tokens - 1));
    attend(shape, layout, pool_data, layer, sequence, item, row_stride, memory);
  });
}

void attention_bidirectional(const AttentionShape& shape, const float* q, const float* k,
                             const float* v, float* out, std::uint32_t tokens,
                             std::size_t row_stride, std::size_t out_stride,
                             std::span<float> scratch, ThreadPool& pool) {
  assert(shape.window == 0);
  const AttentionSequence sequence{q, out, tokens, 0, {}};
  const auto attend = PLIMSOLL_DISPATCH(AttendPlain);
  for_each_item(shape, {&sequence, 1}, scratch, pool,
                [&](const AttentionItem& item, float* memory) {
                  attend(shape, sequence, k, v, item, row_stride, out_stride, memory);
                });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
