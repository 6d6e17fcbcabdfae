// The two products of attention with keys and values in bfloat16, as attention_products-inl.h has
// them of other types; per target (see dispatch.h; the guard toggles on purpose).
//
// Queries and weights are rounded to bfloat16, too. A sum takes each pair's second product first,
// which is what VDPBF16PS does; without the instruction both are fused with the sum in that order.
// The bits are the same, but for denormals, which the instruction takes as zero (see
// matmul_bf16.cc).
#if defined(PLIMSOLL_ATTENTION_BF16_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_BF16_INL_H
#undef PLIMSOLL_ATTENTION_BF16_INL_H
#else
#define PLIMSOLL_ATTENTION_BF16_INL_H
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/attention_products-inl.h"
#include "engine/kernels/cpu/attention_tile-inl.h"
#include "hwy/highway.h"

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One half of pairs as floats.
template <class DF>
HWY_INLINE hn::Vec<DF> LoadFirst(DF d, const Bf16Pair* p) {
  const hn::RebindToUnsigned<DF> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::LoadU(du, &p->bits)));
}
template <class DF>
HWY_INLINE hn::Vec<DF> LoadSecond(DF d, const Bf16Pair* p) {
  const hn::RebindToUnsigned<DF> du;
  return hn::BitCast(d, hn::And(hn::LoadU(du, &p->bits), hn::Set(du, 0xFFFF0000)));
}

template <std::size_t Rows>
HWY_INLINE void Score(const float* HWY_RESTRICT q, const float* /*q_sums*/, std::size_t head_dim,
                      const Tile<Bf16Pair>& tile, const Keys& keys, float* HWY_RESTRICT scores) {
  const D d;
  ForGroups<groups_at_once>(keys, [&](std::size_t g, auto groups) HWY_ATTR {
    constexpr std::size_t columns = groups() * vectors_per_group;
    V sum[Rows][columns];
    SetZero(sum);
    for (std::size_t i = 0; i < head_dim; i += 2) {
      const auto pairs = [&](std::size_t c) {
        return tile.k[g + c / vectors_per_group] + i / 2 * tile.k_stride +
               c % vectors_per_group * lanes;
      };
      V k[columns];
      for (std::size_t c = 0; c < columns; ++c) k[c] = LoadSecond(d, pairs(c));
      AddProducts(d, q + (i + 1) * query_rows, 1, k, sum);
      for (std::size_t c = 0; c < columns; ++c) k[c] = LoadFirst(d, pairs(c));
      AddProducts(d, q + i * query_rows, 1, k, sum);
    }
    StoreScores(sum, g, scores);
  });
}

template <std::size_t Rows, std::size_t Vectors, class DF>
HWY_INLINE void AccumulateDims(DF d, const float* HWY_RESTRICT weights, const Tile<Bf16Pair>& tile,
                               const Keys& keys, const float* HWY_RESTRICT correction,
                               std::size_t head_dim, std::size_t first, float* HWY_RESTRICT out) {
  constexpr std::size_t n = hn::MaxLanes(d);
  hn::Vec<DF> sum[Rows][Vectors];
  LoadCorrected(d, correction, head_dim, out + first, sum);
  // The first of a pair may be a key that no row sees: it weighs 0. The second may be one that has
  // never been written.
  for (std::size_t key = keys.begin / 2 * 2; key < keys.end; key += 2) {
    const Bf16Pair* const pairs =
        tile.v[key / group_keys] + key % group_keys * tile.v_stride + first;
    hn::Vec<DF> v[Vectors];
    if (key + 1 < keys.end) {
      for (std::size_t c = 0; c < Vectors; ++c) v[c] = LoadSecond(d, pairs + c * n);
      AddProducts(d, weights + key + 1, tile_keys, v, sum);
    }
    for (std::size_t c = 0; c < Vectors; ++c) v[c] = LoadFirst(d, pairs + c * n);
    AddProducts(d, weights + key, tile_keys, v, sum);
  }
  StoreOutputs(d, sum, head_dim, out + first);
}

#if HWY_TARGET == HWY_AVX3

// Highway's AVX-512 target knows nothing of this instruction; active_isa() says whether it is
// there.
#define PLIMSOLL_KERNEL __attribute__((target("avx512bf16"), noinline))
#define PLIMSOLL_PART __attribute__((target("avx512bf16"), always_inline)) inline
static_assert(vectors_per_group == 1);

// sum[r, column] += factors[r * stride] * x[column], of pairs.
template <std::size_t Rows, std::size_t Columns>
PLIMSOLL_PART void AddPairs(const std::uint32_t* HWY_RESTRICT factors, std::size_t stride,
                            const __m512bh (&x)[Columns], __m512 (&sum)[Rows][Columns]) {
#pragma GCC unroll 6
  for (std::size_t r = 0; r < Rows; ++r) {
    const auto factor = (__m512bh)_mm512_set1_epi32(static_cast<int>(factors[r * stride]));
#pragma GCC unroll 4
    for (std::size_t c = 0; c < Columns; ++c) {
      sum[r][c] = _mm512_dpbf16_ps(sum[r][c], x[c], factor);
    }
  }
}

// out[r * stride + column * 16] = sum[r, column].
template <std::size_t Rows, std::size_t Columns>
PLIMSOLL_PART void StoreSums(const __m512 (&sum)[Rows][Columns], std::size_t stride,
                             float* HWY_RESTRICT out) {
#pragma GCC unroll 6
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t c = 0; c < Columns; ++c) {
      _mm512_storeu_ps(out + r * stride + c * lanes, sum[r][c]);
    }
  }
}

template <std::size_t Rows, std::size_t Groups>
PLIMSOLL_KERNEL void ScorePairs(const std::uint32_t* HWY_RESTRICT q, std::size_t pairs,
                                const Tile<NativeBf16Pair>& tile, std::size_t g,
                                float* HWY_RESTRICT scores) {
  __m512 sum[Rows][Groups];
  const NativeBf16Pair* k[Groups];
#pragma GCC unroll 4
  for (std::size_t c = 0; c < Groups; ++c) {
    k[c] = tile.k[g + c];
#pragma GCC unroll 6
    for (std::size_t r = 0; r < Rows; ++r) sum[r][c] = _mm512_setzero_ps();
  }
  for (std::size_t i = 0; i < pairs; ++i) {
    __m512bh keys[Groups];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < Groups; ++c) {
      keys[c] = (__m512bh)_mm512_loadu_si512(k[c] + i * tile.k_stride);
    }
    AddPairs(q + i * query_rows, 1, keys, sum);
  }
  StoreSums(sum, tile_keys, scores + g * group_keys);
}

// For Vectors * 16 dimensions from i = `first` on. weights: [Rows, tile_keys] floats apart, pairs.
template <std::size_t Rows, std::size_t Vectors>
PLIMSOLL_KERNEL void AccumulatePairs(const float* weights, const Tile<NativeBf16Pair>& tile,
                                     const Keys& keys, const float* HWY_RESTRICT correction,
                                     std::size_t head_dim, std::size_t first,
                                     float* HWY_RESTRICT out) {
  const auto* const pairs_of_rows = reinterpret_cast<const std::uint32_t*>(weights);
  __m512 sum[Rows][Vectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < Rows; ++r) {
    const __m512 factor = _mm512_set1_ps(correction[r]);
#pragma GCC unroll 4
    for (std::size_t c = 0; c < Vectors; ++c) {
      sum[r][c] = _mm512_mul_ps(_mm512_loadu_ps(out + r * head_dim + first + c * lanes), factor);
    }
  }
  // As above: of a last pair that is not seen whole, the second half is not to be looked at.
  const std::size_t end = (keys.end + 1) / 2;
  for (std::size_t pair = keys.begin / 2; pair < end; ++pair) {
    const NativeBf16Pair* const at =
        tile.v[pair / (group_keys / 2)] + pair % (group_keys / 2) * 2 * tile.v_stride + first;
    const __m512i seen = _mm512_set1_epi32(2 * pair + 1 < keys.end ? -1 : 0xFFFF);
    __m512bh v[Vectors];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < Vectors; ++c) {
      v[c] = (__m512bh)_mm512_and_si512(_mm512_loadu_si512(at + c * lanes), seen);
    }
    AddPairs(pairs_of_rows + pair, tile_keys, v, sum);
  }
  StoreSums(sum, head_dim, out + first);
}
#undef PLIMSOLL_PART
#undef PLIMSOLL_KERNEL

template <std::size_t Rows>
HWY_INLINE void Score(const float* HWY_RESTRICT q, const float* /*q_sums*/, std::size_t head_dim,
                      const Tile<NativeBf16Pair>& tile, const Keys& keys,
                      float* HWY_RESTRICT scores) {
  const auto* const pairs = reinterpret_cast<const std::uint32_t*>(q);
  ForGroups<groups_at_once>(keys, [&](std::size_t g, auto groups) HWY_ATTR {
    ScorePairs<Rows, groups()>(pairs, head_dim / 2, tile, g, scores);
  });
}

// head_dim is in whole vectors.
template <std::size_t Rows>
HWY_INLINE void Accumulate(const float* weights, const Tile<NativeBf16Pair>& tile, const Keys& keys,
                           std::size_t head_dim, const float* correction, float* out) {
  std::size_t i = 0;
  for (; i + dims_at_once * lanes <= head_dim; i += dims_at_once * lanes) {
    AccumulatePairs<Rows, dims_at_once>(weights, tile, keys, correction, head_dim, i, out);
  }
  for (; i < head_dim; i += lanes) {
    AccumulatePairs<Rows, 1>(weights, tile, keys, correction, head_dim, i, out);
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
