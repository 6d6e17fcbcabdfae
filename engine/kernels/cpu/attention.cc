#include "engine/kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cfloat>
#include <cstring>
#include <type_traits>

#include "engine/kernels/cpu/attention_scratch.h"
#include "engine/kernels/cpu/attention_work.h"
#include "engine/kernels/cpu/isa.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/attention.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/attention_bf16-inl.h"
#include "engine/kernels/cpu/attention_parts-inl.h"
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
      Weigh<T, groups()>(v_scales, g * group_keys, n(), scratch.next() + r,
                         scratch.correction() + r, scratch.scores(r), scratch.sums(r));
    });
  });

  for_rows([&](std::size_t r, auto n, const Keys& keys) HWY_ATTR {
    Accumulate<n()>(scratch.scores(r), tile, keys, head_dim, scratch.correction() + r,
                    scratch.out(r));
  });
}

HWY_NOINLINE void StartSegment(const AttentionScratch& scratch, std::size_t rows,
                               std::size_t head_dim) {
  std::memset(scratch.out(0), 0, rows * head_dim * sizeof(float));
  std::memset(scratch.sums(0), 0, rows * attention_row_sums * sizeof(float));
  // Not -infinity: a difference of two of those is NaN.
  std::fill_n(scratch.largest(), rows, -FLT_MAX);
}

// Puts what a segment made of the rows where it belongs: with what the segments before it made, or,
// of a piece, into `parts`.
HWY_NOINLINE void EndSegment(const AttentionScratch& scratch, const Rows& rows, std::size_t segment,
                             std::size_t head_dim, std::size_t out_stride, float* out,
                             float* parts) {
  for (std::size_t r = 0; r < rows.count(); ++r) {
    if (!rows.sees_segment(r, segment)) continue;
    const Part part{scratch.out(r), scratch.largest()[r], SumOfRow(scratch.sums(r))};
    if (parts != nullptr) {
      StorePart(part, head_dim, parts + r * attention_part_floats(head_dim));
    } else {
      AddPart(part, segment == rows.first_segment(r), segment == rows.last_segment(r), head_dim,
              scratch.total(r), out + rows.offset(r, out_stride));
    }
  }
}

// The rows of one item against all keys they see; or, of a piece, against those of one segment, of
// which `parts` becomes [rows, part_floats]. tile_at(first, seen) is the tile that begins at key
// `first`, of which some row sees keys `seen`.
template <class T, class TileAt>
HWY_INLINE void AttendRows(const AttentionShape& shape, const AttentionSequence& sequence,
                           std::size_t q_stride, std::size_t out_stride, bool causal,
                           const AttentionPiece& piece, float* parts,
                           const AttentionScratch& scratch, TileAt tile_at) {
  const std::size_t head_dim = shape.head_dim;
  const Rows rows(shape, sequence, causal, piece.item);
  PrepareQueries<T>(shape, sequence.q, q_stride, rows, scratch);
  std::size_t begin = rows.first_key() / tile_keys * tile_keys, end = rows.end_key();
  if (parts != nullptr) {
    begin = std::max(begin, piece.segment * attention_segment_keys);
    end = std::min(end, (piece.segment + 1) * attention_segment_keys);
  }
  for (std::size_t first = begin; first < end; first += tile_keys) {
    if (first == begin || first % attention_segment_keys == 0) {
      StartSegment(scratch, rows.count(), head_dim);
    }
    AttendTile(shape, rows, first, tile_at(first, rows.seen(first)), scratch);
    const std::size_t next = first + tile_keys;
    if (next >= end || next % attention_segment_keys == 0) {
      EndSegment(scratch, rows, first / attention_segment_keys, head_dim, out_stride, sequence.out,
                 parts);
    }
  }
}

void AttendPaged(const AttentionShape& shape, const KvLayout& layout, const std::byte* pool_data,
                 std::uint32_t layer, const AttentionSequence& sequence,
                 const AttentionPiece& piece, std::size_t stride, float* memory, float* parts) {
  const AttentionScratch scratch(shape.head_dim, memory);
  const auto attend = [&](auto element) HWY_ATTR {
    using T = decltype(element);
    AttendRows<T>(shape, sequence, stride, stride, true, piece, parts, scratch,
                  PagedTiles<T>(layout, pool_data, layer, piece.item.kv_head, sequence.blocks,
                                scratch.scales()));
  };
  switch (layout.type) {
    case KvType::f16: attend(hwy::float16_t()); break;
    case KvType::bf16:
#if HWY_TARGET == HWY_AVX3
      if (active_isa() == Isa::avx512bf16 && shape.head_dim % lanes == 0) {
        attend(NativeBf16Pair());
        break;
      }
#endif
      attend(Bf16Pair());
      break;
    case KvType::int8: attend(std::int8_t()); break;
    case KvType::int4: attend(Int4Pair()); break;
  }
}

// Adds the parts of a piece to what the segments before it made: `total`, [rows, part_floats].
void AddPiece(const AttentionShape& shape, const AttentionSequence& sequence,
              const AttentionPiece& piece, std::size_t stride, const float* parts, float* total) {
  const Rows rows(shape, sequence, true, piece.item);
  const std::size_t floats = attention_part_floats(shape.head_dim);
  for (std::size_t r = 0; r < rows.count(); ++r) {
    if (!rows.sees_segment(r, piece.segment)) continue;
    AddPart(LoadPart(parts + r * floats, shape.head_dim), piece.segment == rows.first_segment(r),
            piece.segment == rows.last_segment(r), shape.head_dim, total + r * floats,
            sequence.out + rows.offset(r, stride));
  }
}

void AttendPlain(const AttentionShape& shape, const AttentionSequence& sequence, const float* k,
                 const float* v, const AttentionItem& item, std::size_t stride,
                 std::size_t out_stride, float* memory) {
  const AttentionScratch scratch(shape.head_dim, memory);
  const std::size_t head = item.kv_head * shape.head_dim;
  AttendRows<float>(shape, sequence, stride, out_stride, false, {.item = item}, nullptr, scratch,
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
HWY_EXPORT(AddPiece);

namespace {

// attend(item, scratch) for every item, taken by the threads one by one.
template <class F>
void for_each_item(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                   std::span<float> scratch, ThreadPool& pool, F attend) {
  const std::size_t per_thread = AttentionScratch(shape.head_dim).floats();
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

// What `threads` keep of pieces, in floats: parts of each piece that is computed before they are
// added up, and totals of each item.
std::size_t piece_floats(const AttentionShape& shape) {
  return attention_piece_rows * attention_part_floats(shape.head_dim);
}
std::size_t floats_of_pieces(const AttentionShape& shape) {
  return (attention_pieces_per_thread + attention_piece_items_per_thread) * piece_floats(shape);
}

// attend(piece, scratch, parts) for pieces, taken by the threads one by one, and then
// add(piece, parts, total) in their order, as many at a time as there is room for.
template <class Attend, class Add>
void for_each_piece(const AttentionShape& shape, const AttentionPieces& pieces,
                    std::span<float> scratch, ThreadPool& pool, Attend attend, Add add) {
  const std::size_t per_thread = AttentionScratch(shape.head_dim).floats();
  const std::size_t threads = pool.threads(), floats = piece_floats(shape);
  float* const parts = scratch.data() + threads * per_thread;
  float* const totals = parts + threads * attention_pieces_per_thread * floats;
  const std::size_t count = pieces.count();
  for (std::size_t begin = 0; begin < count; begin += threads * attention_pieces_per_thread) {
    const std::size_t end = std::min(count, begin + threads * attention_pieces_per_thread);
    std::atomic<std::size_t> next{begin};
    pool.run([&](int rank) {
      for (;;) {
        const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= end) return;
        attend(pieces.at(i), scratch.data() + rank * per_thread, parts + (i - begin) * floats);
      }
    });
    for (std::size_t i = begin; i < end; ++i) {
      const AttentionPiece piece = pieces.at(i);
      add(piece, parts + (i - begin) * floats, totals + piece.item_index * floats);
    }
  }
}

}  // namespace

std::size_t attention_scratch_floats(const AttentionShape& shape) {
  return AttentionScratch(shape.head_dim).floats() + floats_of_pieces(shape);
}

void attention(const AttentionShape& shape, const KvLayout& layout, const std::byte* pool_data,
               std::uint32_t layer, std::span<const AttentionSequence> sequences,
               std::size_t row_stride, std::span<float> scratch, ThreadPool& pool) {
  assert(shape.heads % shape.kv_heads == 0 && shape.head_dim <= max_head_dim);
  assert(shape.kv_heads == layout.kv_heads && shape.head_dim == layout.head_dim);
  assert(layout.block_tokens % attention_group_keys == 0);
  assert(layout.type != KvType::int4 || layout.head_dim % 2 == 0);
  assert(scratch.size() >= attention_scratch_floats(shape) * pool.threads());
  for ([[maybe_unused]] const AttentionSequence& s : sequences) {
    assert(s.blocks.size() > layout.table_index(s.start_position + s.tokens - 1));
  }
  const auto attend = PLIMSOLL_DISPATCH(AttendPaged);
  const AttentionPieces pieces(shape, sequences);
  if (pieces.worthwhile(pool.threads())) {
    const auto add = PLIMSOLL_DISPATCH(AddPiece);
    for_each_piece(
        shape, pieces, scratch, pool,
        [&](const AttentionPiece& piece, float* memory, float* parts) {
          attend(shape, layout, pool_data, layer, sequences[piece.item.sequence], piece, row_stride,
                 memory, parts);
        },
        [&](const AttentionPiece& piece, const float* parts, float* total) {
          add(shape, sequences[piece.item.sequence], piece, row_stride, parts, total);
        });
    return;
  }
  for_each_item(shape, sequences, scratch, pool, [&](const AttentionItem& item, float* memory) {
    attend(shape, layout, pool_data, layer, sequences[item.sequence], {.item = item}, row_stride,
           memory, nullptr);
  });
}

void attention_bidirectional(const AttentionShape& shape, const float* q, const float* k,
                             const float* v, float* out, std::uint32_t tokens,
                             std::size_t row_stride, std::size_t out_stride,
                             std::span<float> scratch, ThreadPool& pool) {
  assert(shape.heads % shape.kv_heads == 0 && shape.head_dim <= max_head_dim && shape.window == 0);
  assert(scratch.size() >= attention_scratch_floats(shape) * pool.threads());
  const AttentionSequence sequence{q, out, tokens, 0, {}};
  const auto attend = PLIMSOLL_DISPATCH(AttendPlain);
  for_each_item(shape, {&sequence, 1}, scratch, pool,
                [&](const AttentionItem& item, float* memory) {
                  attend(shape, sequence, k, v, item, row_stride, out_stride, memory);
                });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
