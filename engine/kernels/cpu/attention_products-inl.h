// The two products of attention, queries by keys and weights by values, straight from where keys
// and values lie; per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_ATTENTION_PRODUCTS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_PRODUCTS_INL_H
#undef PLIMSOLL_ATTENTION_PRODUCTS_INL_H
#else
#define PLIMSOLL_ATTENTION_PRODUCTS_INL_H
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/attention_tile-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// sum[r, column] += factors[r * stride] * x[column]: of a dimension of keys, or of a value.
template <std::size_t Rows, std::size_t Columns, class DF>
HWY_INLINE void AddProducts(DF d, const float* HWY_RESTRICT factors, std::size_t stride,
                            const hn::Vec<DF> (&x)[Columns], hn::Vec<DF> (&sum)[Rows][Columns]) {
  for (std::size_t r = 0; r < Rows; ++r) {
    const auto factor = hn::Set(d, factors[r * stride]);
    for (std::size_t c = 0; c < Columns; ++c) sum[r][c] = hn::MulAdd(factor, x[c], sum[r][c]);
  }
}

template <std::size_t Rows, std::size_t Columns>
HWY_INLINE void SetZero(V (&sum)[Rows][Columns]) {
  for (auto& row : sum) {
    for (V& s : row) s = hn::Zero(D());
  }
}

template <std::size_t Rows, std::size_t Columns>
HWY_INLINE void StoreScores(const V (&sum)[Rows][Columns], std::size_t g,
                            float* HWY_RESTRICT scores) {
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t c = 0; c < Columns; ++c) {
      hn::StoreU(sum[r][c], D(), scores + r * tile_keys + g * group_keys + c * lanes);
    }
  }
}

// scores[r, key] = q[r] . k[key], each a sum over the dimensions in their order.
template <std::size_t Rows, class T>
HWY_INLINE void Score(const float* HWY_RESTRICT q, const float* /*q_sums*/, std::size_t head_dim,
                      const Tile<T>& tile, const Keys& keys, float* HWY_RESTRICT scores) {
  const D d;
  ForGroups<groups_at_once>(keys, [&](std::size_t g, auto groups) HWY_ATTR {
    constexpr std::size_t columns = groups() * vectors_per_group;
    V sum[Rows][columns];
    SetZero(sum);
    for (std::size_t i = 0; i < head_dim; ++i) {
      V k[columns];
      for (std::size_t c = 0; c < columns; ++c) {
        k[c] = LoadFloat(d, tile.k[g + c / vectors_per_group] + i * tile.k_stride +
                                c % vectors_per_group * lanes);
      }
      AddProducts(d, q + i * query_rows, 1, k, sum);
    }
    StoreScores(sum, g, scores);
  });
}

// int4, where k = minimum + scale * u, group by group of columns: adds minimum * (sum of q) +
// scale * (q . u) to the scores, of which `sum` is q . u, for keys from group `g` on.
template <std::size_t Rows, std::size_t Columns>
HWY_INLINE void AddInt4Scores(const V (&sum)[Rows][Columns], const Tile<Int4Pair>& tile,
                              std::size_t group, std::size_t g, const float* HWY_RESTRICT q_sums,
                              float* HWY_RESTRICT scores) {
  const D d;
  const std::size_t minima = tile.groups * tile.k_stride;
  for (std::size_t c = 0; c < Columns; ++c) {
    const hwy::float16_t* const scales = tile.k_scales[g + c / vectors_per_group] +
                                         group * tile.k_stride + c % vectors_per_group * lanes;
    const V scale = LoadFloat(d, scales), minimum = LoadFloat(d, scales + minima);
    for (std::size_t r = 0; r < Rows; ++r) {
      float* const at = scores + r * tile_keys + g * group_keys + c * lanes;
      const V before = group == 0 ? hn::Zero(d) : hn::LoadU(d, at);
      const V of_minimum = hn::MulAdd(hn::Set(d, q_sums[r * tile.groups + group]), minimum, before);
      hn::StoreU(hn::MulAdd(sum[r][c], scale, of_minimum), d, at);
    }
  }
}

template <std::size_t Rows>
HWY_INLINE void Score(const float* HWY_RESTRICT q, const float* HWY_RESTRICT q_sums,
                      std::size_t head_dim, const Tile<Int4Pair>& tile, const Keys& keys,
                      float* HWY_RESTRICT scores) {
  const D d;
  ForGroups<groups_at_once>(keys, [&](std::size_t g, auto groups) HWY_ATTR {
    constexpr std::size_t columns = groups() * vectors_per_group;
    for (std::size_t group = 0; group < tile.groups; ++group) {
      V sum[Rows][columns];
      SetZero(sum);
      const std::size_t end = std::min(head_dim, (group + 1) * group_columns);
      for (std::size_t i = group * group_columns; i < end; i += 2) {
        V even[columns], odd[columns];
        for (std::size_t c = 0; c < columns; ++c) {
          LoadInt4Keys(tile.k[g + c / vectors_per_group] + i / 2 * tile.k_stride +
                           c % vectors_per_group * lanes,
                       even[c], odd[c]);
        }
        AddProducts(d, q + i * query_rows, 1, even, sum);
        AddProducts(d, q + (i + 1) * query_rows, 1, odd, sum);
      }
      AddInt4Scores(sum, tile, group, g, q_sums, scores);
    }
  });
}

// sum[r, i] = out[r, i] * correction[r], and back.
template <std::size_t Rows, std::size_t Vectors, class DF>
HWY_INLINE void LoadCorrected(DF d, const float* HWY_RESTRICT correction, std::size_t head_dim,
                              const float* HWY_RESTRICT out, hn::Vec<DF> (&sum)[Rows][Vectors]) {
  for (std::size_t r = 0; r < Rows; ++r) {
    const auto factor = hn::Set(d, correction[r]);
    for (std::size_t c = 0; c < Vectors; ++c) {
      sum[r][c] = hn::Mul(hn::LoadU(d, out + r * head_dim + c * hn::MaxLanes(d)), factor);
    }
  }
}
template <std::size_t Rows, std::size_t Vectors, class DF>
HWY_INLINE void StoreOutputs(DF d, const hn::Vec<DF> (&sum)[Rows][Vectors], std::size_t head_dim,
                             float* HWY_RESTRICT out) {
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t c = 0; c < Vectors; ++c) {
      hn::StoreU(sum[r][c], d, out + r * head_dim + c * hn::MaxLanes(d));
    }
  }
}

// out[r, i] = out[r, i] * correction[r] + sum over keys of weights[r, key] * v[key, i], for
// Vectors * lanes dimensions from i = `first` on, key by key.
template <std::size_t Rows, std::size_t Vectors, class DF, class T>
HWY_INLINE void AccumulateDims(DF d, const float* HWY_RESTRICT weights, const Tile<T>& tile,
                               const Keys& keys, const float* HWY_RESTRICT correction,
                               std::size_t head_dim, std::size_t first, float* HWY_RESTRICT out) {
  hn::Vec<DF> sum[Rows][Vectors];
  LoadCorrected(d, correction, head_dim, out + first, sum);
  for (std::size_t g = keys.first_group(); g < keys.end_group(); ++g) {
    const std::size_t begin = std::max(keys.begin, g * group_keys);
    const std::size_t end = std::min(keys.end, (g + 1) * group_keys);
    for (std::size_t key = begin; key < end; ++key) {
      hn::Vec<DF> v[Vectors];
      LoadValue(d, tile, key, first, v);
      AddProducts(d, weights + key, tile_keys, v, sum);
    }
  }
  StoreOutputs(d, sum, head_dim, out + first);
}

template <std::size_t Rows, class T>
HWY_INLINE void Accumulate(const float* weights, const Tile<T>& tile, const Keys& keys,
                           std::size_t head_dim, const float* correction, float* out) {
  const D d;
  std::size_t i = 0;
  for (; i + dims_at_once * lanes <= head_dim; i += dims_at_once * lanes) {
    AccumulateDims<Rows, dims_at_once>(d, weights, tile, keys, correction, head_dim, i, out);
  }
  for (; i + lanes <= head_dim; i += lanes) {
    AccumulateDims<Rows, 1>(d, weights, tile, keys, correction, head_dim, i, out);
  }
  const hn::CappedTag<float, 1> one;
  for (; i < head_dim; ++i) {
    AccumulateDims<Rows, 1>(one, weights, tile, keys, correction, head_dim, i, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
