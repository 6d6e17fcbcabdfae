// A tile of keys and values, and how its numbers are loaded; per target (see dispatch.h; the guard
// toggles on purpose).
#if defined(PLIMSOLL_ATTENTION_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_TILE_INL_H
#undef PLIMSOLL_ATTENTION_TILE_INL_H
#else
#define PLIMSOLL_ATTENTION_TILE_INL_H
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "engine/kernels/cpu/attention_work.h"
#include "engine/kernels/cpu/bf16-inl.h"
#include "engine/kv/kv_layout.h"
#include "hwy/highway.h"

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
constexpr std::size_t vectors_per_group = group_keys / lanes;
constexpr std::size_t group_columns = KvLayout::group_columns;

// What the registers hold at once: query rows, and vectors of keys (scores) or of dimensions
// (outputs).
constexpr std::size_t row_step = lanes == 16 ? 6 : 4;
constexpr std::size_t query_rows = (row_step + 3) / 4 * 4;  // that lie side by side in the scratch
constexpr std::size_t groups_at_once = lanes == 16 ? 4 : 1;
static_assert(tile_groups == 4);  // see ForGroups()
constexpr std::size_t dims_at_once = lanes == 16 ? 4 : 2;

// The keys of a tile that some of a run of rows see: [begin, end).
struct Keys {
  std::size_t begin;
  std::size_t end;
  bool none() const { return begin >= end; }
  std::size_t first_group() const { return begin / group_keys; }
  std::size_t end_group() const { return (end + group_keys - 1) / group_keys; }
};

// f(first, std::integral_constant<groups>) for the groups of these keys, at most AtOnce (1 or 4) of
// them at a time.
template <std::size_t AtOnce, class F>
HWY_INLINE void ForGroups(const Keys& keys, F f) {
  std::size_t g = keys.first_group();
  const std::size_t end = keys.end_group();
  if constexpr (AtOnce == 1) {
    for (; g < end; ++g) f(g, std::integral_constant<std::size_t, 1>());
  } else {
    switch (end - g) {
      case 4: f(g, std::integral_constant<std::size_t, 4>()); break;
      case 3: f(g, std::integral_constant<std::size_t, 3>()); break;
      case 2: f(g, std::integral_constant<std::size_t, 2>()); break;
      case 1: f(g, std::integral_constant<std::size_t, 1>()); break;
      default: break;
    }
  }
}

// Two values, see kv_layout.h.
struct Bf16Pair {
  std::uint32_t bits;
};
struct NativeBf16Pair {  // the same, multiplied by VDPBF16PS
  std::uint32_t bits;
};
struct Int4Pair {
  std::uint8_t bits;
};
template <class T>
constexpr bool is_bf16 = std::is_same_v<T, Bf16Pair> || std::is_same_v<T, NativeBf16Pair>;
template <class T>
constexpr bool has_scales = std::is_same_v<T, std::int8_t> || std::is_same_v<T, Int4Pair>;

// One tile of keys and values of a KV head: where its groups of 16 keys lie.
template <class T>
struct Tile {
  // [head_dim, k_stride], from the group's first key on; of pairs [head_dim / 2, k_stride].
  const T* k[tile_groups];
  const T* v[tile_groups];  // [group_keys, v_stride]; of pairs [group_keys / 2, 2 * v_stride]
  std::size_t k_stride;
  std::size_t v_stride;
  const float* k_scales = nullptr;  // [tile_keys], int8 only
  const float* v_scales = nullptr;
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
};

// row[i] = x for a vector from i on, as keys or values of type T are multiplied with: as floats,
// rounded to bfloat16 beside such, or as bfloat16.
template <class T>
HWY_INLINE void StoreFactors(V x, std::size_t i, float* row) {
  const D d;
  if constexpr (std::is_same_v<T, NativeBf16Pair>) {
    StoreAsBf16(d, x, reinterpret_cast<std::uint16_t*>(row) + i);
  } else if constexpr (std::is_same_v<T, Bf16Pair>) {
    hn::StoreU(RoundedToBf16(d, x), d, row + i);
  } else {
    hn::StoreU(x, d, row + i);
  }
}

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

// Two dimensions of some keys, without scale and minimum.
HWY_INLINE void LoadInt4Keys(const Int4Pair* p, V& even, V& odd) {
  const D d;
  const hn::Rebind<std::int32_t, D> di32;
  const hn::Rebind<std::uint8_t, D> du8;
  const auto pairs = hn::PromoteTo(di32, hn::LoadU(du8, &p->bits));
  even = hn::ConvertTo(d, hn::And(pairs, hn::Set(di32, 15)));
  odd = hn::ConvertTo(d, hn::ShiftRight<4>(pairs));
}

// Vectors * n dimensions of a value, from i = `first` on.
template <class DF, class T, std::size_t Vectors>
HWY_INLINE void LoadValue(DF d, const Tile<T>& tile, std::size_t key, std::size_t first,
                          hn::Vec<DF> (&v)[Vectors]) {
  const T* const row = tile.v[key / group_keys] + key % group_keys * tile.v_stride + first;
  for (std::size_t c = 0; c < Vectors; ++c) v[c] = LoadFloat(d, row + c * hn::MaxLanes(d));
}
template <class DF, std::size_t Vectors>
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

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
