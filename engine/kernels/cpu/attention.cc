#include "engine/kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cfloat>
#include <limits>
#include <type_traits>

#include "engine/kernels/cpu/attention_work.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/attention.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/exp-inl.h"
#include "engine/kernels/cpu/rotate-inl.h"
#include "engine/kernels/cpu/transpose-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);
constexpr std::size_t tile_keys = attention_tile_keys;
constexpr std::size_t group_keys = attention_group_keys;
constexpr std::size_t tile_groups = tile_keys / group_keys;
constexpr std::size_t tile_vectors = tile_keys / lanes;
constexpr std::size_t group_columns = KvLayout::group_columns;

// What the registers hold at once: query rows, and vectors of keys (scores) or of dimensions
// (outputs).
constexpr std::size_t row_step = lanes == 16 ? 6 : 4;
constexpr std::size_t groups_at_once = lanes == 16 ? 4 : 1;
constexpr std::size_t dims_at_once = lanes == 16 ? 4 : 2;

// A thread's part of the scratch.
struct Scratch {
  float* q;           // [max_rows, head_dim], times the scale
  float* out;         // [max_rows, head_dim], not yet divided by the sum
  float* scores;      // [max_rows, tile_keys], then the weights
  float* largest;     // [max_rows]
  float* sum;         // [max_rows]
  float* correction;  // [max_rows]: what the outputs so far are to be multiplied with
  float* k;           // [tile_groups, head_dim, group_keys]: keys that had to be transposed
  // int4 only, in the same memory:
  float* q_sums;    // [max_rows, groups]: of q, over a group of columns
  float* v_scales;  // [2 (scales, minima), groups, tile_keys]

  Scratch(float* memory, std::size_t head_dim)
      : q(memory),
        out(q + attention_max_rows * head_dim),
        scores(out + attention_max_rows * head_dim),
        largest(scores + attention_max_rows * tile_keys),
        sum(largest + attention_max_rows),
        correction(sum + attention_max_rows),
        k(correction + attention_max_rows),
        q_sums(k),
        v_scales(q_sums + attention_max_rows * groups_of(head_dim)) {}
  static std::size_t groups_of(std::size_t head_dim) {
    return (head_dim + group_columns - 1) / group_columns;
  }
};

// One tile of keys and values of a KV head: where its groups of 16 keys lie.
template <class T>
struct Tile {
  const T* k[tile_groups];  // [head_dim, k_stride], from the group's first key on
  const T* v[tile_groups];  // [group_keys, v_stride]
  std::size_t k_stride;
  std::size_t v_stride;
  const hwy::float16_t* k_scales[tile_groups];  // int8 only
  const hwy::float16_t* v_scales[tile_groups];
  std::size_t begin;  // keys of the tile that some query of the item sees: [begin, end)
  std::size_t end;
  // Short sequences have no other groups, and need not pay for them.
  bool one_group() const { return end <= group_keys; }
};

struct Int4Pair {  // see kv_layout.h
  std::uint8_t bits;
};
template <>
struct Tile<Int4Pair> {
  const Int4Pair* k[tile_groups];  // [head_dim / 2, k_stride]
  const Int4Pair* v[tile_groups];  // [group_keys, v_stride]
  std::size_t k_stride;
  std::size_t v_stride;
  std::size_t groups;
  const hwy::float16_t* k_scales[tile_groups];  // [2 (scales, minima), groups, k_stride]
  const float* v_scales;                        // [2, groups, tile_keys]
  std::size_t begin;
  std::size_t end;
  bool one_group() const { return false; }  // it always pays for the whole tile
};

template <class DF>
HWY_INLINE hn::Vec<DF> LoadFloat(DF d, const float* p) {
  return hn::LoadU(d, p);
}
template <class DF>
HWY_INLINE hn::Vec<DF> LoadFloat(DF d, const hwy::float16_t* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, DF>(), p));
}
template <class DF>
HWY_INLINE hn::Vec<DF> LoadFloat(DF d, const std::int8_t* p) {
  const hn::Rebind<std::int32_t, DF> di32;
  return hn::ConvertTo(d, hn::PromoteTo(di32, hn::LoadU(hn::Rebind<std::int8_t, DF>(), p)));
}

// sum[r, key] += q[r] * k[key] of one dimension.
template <std::size_t Rows, std::size_t Columns>
HWY_INLINE void AddDimension(const float* HWY_RESTRICT q, std::size_t head_dim,
                             const V (&k)[Columns], V (&sum)[Rows][Columns]) {
  const D d;
  for (std::size_t r = 0; r < Rows; ++r) {
    const V x = hn::Set(d, q[r * head_dim]);
    for (std::size_t c = 0; c < Columns; ++c) sum[r][c] = hn::MulAdd(x, k[c], sum[r][c]);
  }
}

// scores[r, key] = q[r] . k[key], each a sum over the dimensions in their order, of the keys of
// Groups groups from `g` on.
template <std::size_t Groups, std::size_t Rows, class T>
HWY_INLINE void ScoreGroups(const float* HWY_RESTRICT q, std::size_t head_dim, const Tile<T>& tile,
                            std::size_t g, float* HWY_RESTRICT scores) {
  constexpr std::size_t per_group = group_keys / lanes;
  constexpr std::size_t columns = Groups * per_group;
  const D d;
  V sum[Rows][columns];
  for (auto& row : sum) {
    for (V& s : row) s = hn::Zero(d);
  }
  for (std::size_t i = 0; i < head_dim; ++i) {
    V k[columns];
    for (std::size_t c = 0; c < columns; ++c) {
      k[c] = LoadFloat(d, tile.k[g + c / per_group] + i * tile.k_stride + c % per_group * lanes);
    }
    AddDimension(q + i, head_dim, k, sum);
  }
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t c = 0; c < columns; ++c) {
      hn::StoreU(sum[r][c], d, scores + r * tile_keys + g * group_keys + c * lanes);
    }
  }
}

// The scores of all keys of the tile, or of its first group where nothing else is seen.
template <std::size_t Rows, class T>
HWY_INLINE void Score(const float* q, const float* /*q_sums*/, std::size_t head_dim,
                      const Tile<T>& tile, float* scores) {
  if (tile.one_group()) {
    ScoreGroups<1, Rows>(q, head_dim, tile, 0, scores);
    return;
  }
  for (std::size_t g = 0; g < tile_groups; g += groups_at_once) {
    ScoreGroups<groups_at_once, Rows>(q, head_dim, tile, g, scores);
  }
}

// The same of int4, group by group of columns: k = minimum + scale * u, so that q . k is the sum of
// minimum * (sum of q) + scale * (q . u).
template <std::size_t Rows>
HWY_INLINE void Score(const float* HWY_RESTRICT q, const float* q_sums, std::size_t head_dim,
                      const Tile<Int4Pair>& tile, float* HWY_RESTRICT scores) {
  constexpr std::size_t per_group = group_keys / lanes;
  constexpr std::size_t columns = groups_at_once * per_group;
  const D d;
  const hn::Rebind<std::int32_t, D> di32;
  const hn::Rebind<std::uint8_t, D> du8;
  const auto low_bits = hn::Set(di32, 15);
  const std::size_t minima = tile.groups * tile.k_stride;
  for (std::size_t g = 0; g < tile_groups; g += groups_at_once) {
    for (std::size_t group = 0; group < tile.groups; ++group) {
      V sum[Rows][columns];
      for (auto& row : sum) {
        for (V& s : row) s = hn::Zero(d);
      }
      const std::size_t end = std::min(head_dim, (group + 1) * group_columns);
      for (std::size_t i = group * group_columns; i < end; i += 2) {
        hn::Vec<decltype(di32)> pairs[columns];
        for (std::size_t c = 0; c < columns; ++c) {
          const Int4Pair* const at =
              tile.k[g + c / per_group] + i / 2 * tile.k_stride + c % per_group * lanes;
          pairs[c] = hn::PromoteTo(di32, hn::LoadU(du8, &at->bits));
        }
        V k[columns];
        for (std::size_t c = 0; c < columns; ++c) {
          k[c] = hn::ConvertTo(d, hn::And(pairs[c], low_bits));
        }
        AddDimension(q + i, head_dim, k, sum);
        for (std::size_t c = 0; c < columns; ++c) {
          k[c] = hn::ConvertTo(d, hn::ShiftRight<4>(pairs[c]));
        }
        AddDimension(q + i + 1, head_dim, k, sum);
      }
      for (std::size_t c = 0; c < columns; ++c) {
        const hwy::float16_t* const scales =
            tile.k_scales[g + c / per_group] + group * tile.k_stride + c % per_group * lanes;
        const V scale = LoadFloat(d, scales), minimum = LoadFloat(d, scales + minima);
        for (std::size_t r = 0; r < Rows; ++r) {
          float* const at = scores + r * tile_keys + g * group_keys + c * lanes;
          const V before = group == 0 ? hn::Zero(d) : hn::LoadU(d, at);
          const V of_minimum =
              hn::MulAdd(hn::Set(d, q_sums[r * tile.groups + group]), minimum, before);
          hn::StoreU(hn::MulAdd(sum[r][c], scale, of_minimum), d, at);
        }
      }
    }
  }
}

// Vectors * n dimensions of a value, from i = `first` on.
template <std::size_t Vectors, class DF, class T>
HWY_INLINE void LoadValue(DF d, const Tile<T>& tile, std::size_t key, std::size_t first,
                          hn::Vec<DF> (&v)[Vectors]) {
  const T* const row = tile.v[key / group_keys] + key % group_keys * tile.v_stride + first;
  for (std::size_t c = 0; c < Vectors; ++c) v[c] = LoadFloat(d, row + c * hn::MaxLanes(d));
}
template <std::size_t Vectors, class DF>
HWY_INLINE void LoadValue(DF d, const Tile<Int4Pair>& tile, std::size_t key, std::size_t first,
                          hn::Vec<DF> (&v)[Vectors]) {
  constexpr std::size_t n = hn::MaxLanes(d), half = group_columns / 2;
  const hn::Rebind<std::int32_t, DF> di32;
  const hn::Rebind<std::uint8_t, DF> du8;
  const Int4Pair* const row = tile.v[key / group_keys] + key % group_keys * tile.v_stride;
  for (std::size_t c = 0; c < Vectors; ++c) {
    // Where they are whole groups, the compiler is to see which vectors share bytes and scales.
    constexpr bool whole = Vectors * n % group_columns == 0;
    const std::size_t group =
        whole ? first / group_columns + c * n / group_columns : (first + c * n) / group_columns;
    const std::size_t column = (whole ? c * n : first + c * n) % group_columns;
    const Int4Pair* const at = row + group * half + column % half;
    const auto pairs = hn::PromoteTo(di32, hn::LoadU(du8, &at->bits));
    const auto u = column < half ? hn::And(pairs, hn::Set(di32, 15)) : hn::ShiftRight<4>(pairs);
    const float* const scale = tile.v_scales + group * tile_keys + key;
    v[c] = hn::MulAdd(hn::ConvertTo(d, u), hn::Set(d, *scale),
                      hn::Set(d, scale[tile.groups * tile_keys]));
  }
}

// out[r, i] = out[r, i] * correction[r] + sum over keys of weights[r, key] * v[key, i], for
// Vectors * lanes dimensions from i = `first` on, key by key.
template <std::size_t Vectors, class DF, class T, std::size_t Rows>
HWY_INLINE void AccumulateDims(DF d, const float* HWY_RESTRICT weights, const Tile<T>& tile,
                               std::size_t head_dim, const float* HWY_RESTRICT correction,
                               std::size_t first, float* HWY_RESTRICT out) {
  constexpr std::size_t n = hn::MaxLanes(d);
  hn::Vec<DF> sum[Rows][Vectors];
  for (std::size_t r = 0; r < Rows; ++r) {
    const auto factor = hn::Set(d, correction[r]);
    for (std::size_t c = 0; c < Vectors; ++c) {
      sum[r][c] = hn::Mul(hn::LoadU(d, out + r * head_dim + first + c * n), factor);
    }
  }
  for (std::size_t g = tile.begin / group_keys; g * group_keys < tile.end; ++g) {
    const std::size_t begin = std::max(tile.begin, g * group_keys);
    const std::size_t end = std::min(tile.end, (g + 1) * group_keys);
    for (std::size_t key = begin; key < end; ++key) {
      hn::Vec<DF> v[Vectors];
      LoadValue<Vectors>(d, tile, key, first, v);
      for (std::size_t r = 0; r < Rows; ++r) {
        const auto weight = hn::Set(d, weights[r * tile_keys + key]);
        for (std::size_t c = 0; c < Vectors; ++c) sum[r][c] = hn::MulAdd(weight, v[c], sum[r][c]);
      }
    }
  }
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t c = 0; c < Vectors; ++c) {
      hn::StoreU(sum[r][c], d, out + r * head_dim + first + c * n);
    }
  }
}

template <class T, std::size_t Rows>
HWY_INLINE void Accumulate(const float* weights, const Tile<T>& tile, std::size_t head_dim,
                           const float* correction, float* out) {
  const D d;
  std::size_t i = 0;
  for (; i + dims_at_once * lanes <= head_dim; i += dims_at_once * lanes) {
    AccumulateDims<dims_at_once, D, T, Rows>(d, weights, tile, head_dim, correction, i, out);
  }
  for (; i + lanes <= head_dim; i += lanes) {
    AccumulateDims<1, D, T, Rows>(d, weights, tile, head_dim, correction, i, out);
  }
  const hn::CappedTag<float, 1> one;
  for (; i < head_dim; ++i) {
    AccumulateDims<1, decltype(one), T, Rows>(one, weights, tile, head_dim, correction, i, out);
  }
}

// Turns one row of scores into weights, exp(score - largest), and updates the row's maximum, sum
// and correction. Only keys in [lo, hi) of the tile are seen; the others weigh exactly 0, and a
// tile of which nothing is seen changes nothing. Looks at the first Vectors vectors of keys.
template <std::size_t Vectors, class T>
HWY_INLINE void Weigh(const Tile<T>& tile, float softcap, std::size_t lo, std::size_t hi,
                      float* scores, float& largest, float& sum, float& correction) {
  const D d;
  V s[Vectors];
  V most = hn::Set(d, largest);
  for (std::size_t c = 0; c < Vectors; ++c) {
    s[c] = hn::LoadU(d, scores + c * lanes);
    if constexpr (std::is_same_v<T, std::int8_t>) {
      s[c] = hn::Mul(s[c],
                     LoadFloat(d, tile.k_scales[c * lanes / group_keys] + c * lanes % group_keys));
    }
    if (softcap > 0) {
      const V cap = hn::Set(d, softcap);
      s[c] = hn::Mul(cap, hn::Tanh(d, hn::Div(s[c], cap)));
    }
    if (lo > 0 || hi < tile_keys) {
      const V key = hn::Iota(d, static_cast<float>(c * lanes));
      const auto seen = hn::And(hn::Ge(key, hn::Set(d, static_cast<float>(lo))),
                                hn::Lt(key, hn::Set(d, static_cast<float>(hi))));
      s[c] = hn::IfThenElse(seen, s[c], hn::Set(d, -std::numeric_limits<float>::infinity()));
    }
    most = hn::Max(most, s[c]);
  }
  const float before = largest;
  most = hn::MaxOfLanes(d, most);
  largest = hn::GetLane(most);
  correction =
      before == largest ? 1.0F : hn::GetLane(BoundedExp(d, hn::Sub(hn::Set(d, before), most)));
  V added = hn::Zero(d);
  for (std::size_t c = 0; c < Vectors; ++c) {
    V weight = BoundedExp(d, hn::Sub(s[c], most));
    added = hn::Add(added, weight);
    if constexpr (std::is_same_v<T, std::int8_t>) {
      weight = hn::Mul(
          weight, LoadFloat(d, tile.v_scales[c * lanes / group_keys] + c * lanes % group_keys));
    }
    hn::StoreU(weight, d, scores + c * lanes);
  }
  sum = sum * correction + hn::GetLane(hn::SumOfLanes(d, added));
}

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

// out[i, key] = in[i, key] for 16 keys of a tile.
HWY_INLINE void ExpandScales(const hwy::float16_t* in, std::size_t block_tokens, std::size_t rows,
                             float* out) {
  const D d;
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t key = 0; key < group_keys; key += lanes) {
      hn::StoreU(LoadFloat(d, in + i * block_tokens + key), d, out + i * tile_keys + key);
    }
  }
}

// Makes of a row of q what goes with int4 keys: rotated as they are, and its sums by group.
HWY_INLINE void PrepareInt4Query(float* q, std::size_t head_dim, float* sums) {
  Rotate(q, head_dim);
  for (std::size_t first = 0; first < head_dim; first += group_columns) {
    float sum = 0;
    for (std::size_t i = first; i < std::min(head_dim, first + group_columns); ++i) sum += q[i];
    *sums++ = sum;
  }
}

template <class T>
HWY_INLINE Tile<T> PagedTile(const KvLayout& layout, const std::byte* pool_data,
                             std::uint32_t layer, std::span<const BlockId> blocks,
                             std::size_t kv_head, std::size_t first, std::size_t lo, std::size_t hi,
                             const Scratch& scratch) {
  Tile<T> tile;
  tile.k_stride = layout.block_tokens;
  tile.v_stride = layout.row_bytes() / sizeof(T);
  tile.begin = std::max(lo, first) - first;
  tile.end = std::min(hi - first, tile_keys);
  for (std::size_t g = 0; g < tile_groups; ++g) {
    // A group that no query sees may have no block: another stands in, its scores are masked.
    const std::size_t seen = std::clamp(g, tile.begin / group_keys, (tile.end - 1) / group_keys);
    const std::size_t key = first + seen * group_keys;
    const std::byte* const block =
        pool_data + blocks[layout.table_index(key)].get() * layout.block_bytes();
    const std::size_t slot = key % layout.block_tokens;
    const auto head = [&](std::size_t offset) {
      return reinterpret_cast<const T*>(block + offset + kv_head * layout.head_bytes());
    };
    tile.k[g] = head(layout.k_offset(layer)) + slot;
    tile.v[g] = head(layout.v_offset(layer)) + slot * tile.v_stride;
    const auto scales = [&](std::size_t offset) {
      const std::byte* const of_head = block + offset + kv_head * layout.head_scales_bytes();
      return reinterpret_cast<const hwy::float16_t*>(of_head) + slot;
    };
    if constexpr (std::is_same_v<T, std::int8_t>) {
      tile.k_scales[g] = scales(layout.k_scales_offset(layer));
      tile.v_scales[g] = scales(layout.v_scales_offset(layer));
    }
    if constexpr (std::is_same_v<T, Int4Pair>) {
      tile.k_scales[g] = scales(layout.k_scales_offset(layer));
      ExpandScales(scales(layout.v_scales_offset(layer)), layout.block_tokens, 2 * layout.groups(),
                   scratch.v_scales + g * group_keys);
    }
  }
  if constexpr (std::is_same_v<T, Int4Pair>) {
    tile.groups = layout.groups();
    tile.v_scales = scratch.v_scales;
  }
  return tile;
}

// The keys from `first` on of a sequence that lies in rows of floats: transposed into `memory`.
HWY_INLINE Tile<float> PlainTile(const float* k, const float* v, std::size_t stride,
                                 std::size_t head_dim, std::size_t first, std::size_t end,
                                 float* memory) {
  Tile<float> tile;
  tile.k_stride = group_keys;
  tile.v_stride = stride;
  tile.begin = 0;
  tile.end = std::min(end - first, tile_keys);
  const std::size_t groups = tile.one_group() ? 1 : tile_groups;
  for (std::size_t g = 0; g < groups; ++g) {
    float* const group = memory + g * group_keys * head_dim;
    const std::size_t from = first + g * group_keys;
    const std::size_t keys = from < end ? std::min(end - from, group_keys) : 0;
    if (keys < group_keys) std::fill_n(group, group_keys * head_dim, 0.0F);
    if (keys > 0) Transpose(k + from * stride, stride, keys, head_dim, group, group_keys);
    tile.k[g] = group;
    tile.v[g] = keys > 0 ? v + from * stride : v;
  }
  return tile;
}

// The rows of one item against all keys they see; tile_at(first, lo, hi) is the tile that begins
// at key `first`, of which some row sees keys in [lo, hi).
template <class T, class TileAt>
HWY_INLINE void AttendRows(const AttentionShape& shape, const AttentionSequence& sequence,
                           std::size_t q_stride, std::size_t out_stride, bool causal,
                           const AttentionItem& item, const Scratch& scratch, TileAt tile_at) {
  const std::size_t head_dim = shape.head_dim;
  const std::size_t group = shape.heads / shape.kv_heads;
  const auto token = [&](std::size_t r) { return (item.first_row + r) / group; };
  const auto head_offset = [&](std::size_t r) {
    return (item.kv_head * group + (item.first_row + r) % group) * head_dim;
  };
  const auto last_key = [&](std::size_t r) {  // one more than the last
    return sequence.start_position + (causal ? token(r) + 1 : sequence.tokens);
  };
  const auto first_key = [&](std::size_t r) {
    const std::size_t seen = last_key(r);
    return shape.window > 0 && seen > shape.window ? seen - shape.window : 0;
  };

  for (std::size_t r = 0; r < item.rows; ++r) {
    const float* const q = sequence.q + token(r) * q_stride + head_offset(r);
    for (std::size_t i = 0; i < head_dim; ++i) {
      scratch.q[r * head_dim + i] = q[i] * shape.scale;
      scratch.out[r * head_dim + i] = 0.0F;
    }
    if constexpr (std::is_same_v<T, Int4Pair>) {
      PrepareInt4Query(scratch.q + r * head_dim, head_dim,
                       scratch.q_sums + r * Scratch::groups_of(head_dim));
    }
    scratch.largest[r] = -FLT_MAX;  // not -infinity: a difference of two of those is NaN
    scratch.sum[r] = 0.0F;
  }

  const std::size_t lo = first_key(0);
  const std::size_t hi = last_key(item.rows - 1);
  for (std::size_t first = lo / tile_keys * tile_keys; first < hi; first += tile_keys) {
    const Tile<T> tile = tile_at(first, lo, hi);
    ForRows(item.rows, [&](std::size_t r, auto rows) HWY_ATTR {
      Score<rows()>(scratch.q + r * head_dim, scratch.q_sums + r * Scratch::groups_of(head_dim),
                    head_dim, tile, scratch.scores + r * tile_keys);
    });
    for (std::size_t r = 0; r < item.rows; ++r) {
      const std::size_t row_lo = std::max(first_key(r), first) - first;
      const std::size_t row_hi = std::max(last_key(r), first) - first;
      float* const scores = scratch.scores + r * tile_keys;
      if (tile.one_group()) {
        Weigh<group_keys / lanes>(tile, shape.softcap, row_lo, row_hi, scores, scratch.largest[r],
                                  scratch.sum[r], scratch.correction[r]);
      } else {
        Weigh<tile_vectors>(tile, shape.softcap, row_lo, row_hi, scores, scratch.largest[r],
                            scratch.sum[r], scratch.correction[r]);
      }
    }
    ForRows(item.rows, [&](std::size_t r, auto rows) HWY_ATTR {
      Accumulate<T, rows()>(scratch.scores + r * tile_keys, tile, head_dim, scratch.correction + r,
                            scratch.out + r * head_dim);
    });
  }

  for (std::size_t r = 0; r < item.rows; ++r) {
    float* const out = sequence.out + token(r) * out_stride + head_offset(r);
    for (std::size_t i = 0; i < head_dim; ++i) {
      out[i] = scratch.out[r * head_dim + i] / scratch.sum[r];
    }
  }
}

void AttendPaged(const AttentionShape& shape, const KvLayout& layout, const std::byte* pool_data,
                 std::uint32_t layer, const AttentionSequence& sequence, const AttentionItem& item,
                 std::size_t stride, float* memory) {
  const Scratch scratch(memory, shape.head_dim);
  const auto attend = [&](auto element) HWY_ATTR {
    using T = decltype(element);
    AttendRows<T>(shape, sequence, stride, stride, true, item, scratch,
                  [&](std::size_t first, std::size_t lo, std::size_t hi) HWY_ATTR {
                    return PagedTile<T>(layout, pool_data, layer, sequence.blocks, item.kv_head,
                                        first, lo, hi, scratch);
                  });
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
  const Scratch scratch(memory, shape.head_dim);
  const std::size_t head = item.kv_head * shape.head_dim;
  AttendRows<float>(shape, sequence, stride, out_stride, false, item, scratch,
                    [&](std::size_t first, std::size_t, std::size_t hi) HWY_ATTR {
                      return PlainTile(k + head, v + head, stride, shape.head_dim, first, hi,
                                       scratch.k);
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
  const std::size_t floats = attention_max_rows * (2 * shape.head_dim + attention_tile_keys + 3) +
                             attention_tile_keys * std::max(shape.head_dim, 4U);
  return (floats + 15) / 16 * 16;  // so that every thread's part starts on a cache line
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
