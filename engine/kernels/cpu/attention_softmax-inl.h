// The online softmax between the two products of attention, a row of a tile's scores at a time; per
// target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_ATTENTION_SOFTMAX_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_SOFTMAX_INL_H
#undef PLIMSOLL_ATTENTION_SOFTMAX_INL_H
#else
#define PLIMSOLL_ATTENTION_SOFTMAX_INL_H
#endif

#include <cstddef>
#include <limits>

#include "engine/kernels/cpu/attention_tile-inl.h"
#include "engine/kernels/cpu/exp-inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Makes scores of rows' products of queries and keys, of Groups groups from key `first` of the tile
// on: scaled, capped, and -infinity for keys that a row does not see. next[r] becomes the largest
// of them and of largest[r].
template <std::size_t Groups>
HWY_NOINLINE void FinishScores(const float* HWY_RESTRICT k_scales, float softcap, std::size_t first,
                               std::size_t rows, const Keys* HWY_RESTRICT seen,
                               float* HWY_RESTRICT scores, const float* HWY_RESTRICT largest,
                               float* HWY_RESTRICT next) {
  constexpr std::size_t vectors = Groups * vectors_per_group;
  const D d;
  const bool as_it_is = k_scales == nullptr && softcap <= 0;
  for (std::size_t r = 0; r < rows; ++r) {
    float* const at = scores + r * tile_keys + first;
    const bool all_seen = seen[r].begin <= first && seen[r].end >= first + Groups * group_keys;
    V s[vectors];
    for (std::size_t i = 0; i < vectors; ++i) s[i] = hn::LoadU(d, at + i * lanes);
    if (!as_it_is || !all_seen) {
      for (std::size_t i = 0; i < vectors; ++i) {
        const std::size_t key = first + i * lanes;
        if (k_scales != nullptr) s[i] = hn::Mul(s[i], hn::LoadU(d, k_scales + key));
        if (softcap > 0) {
          const V cap = hn::Set(d, softcap);
          s[i] = hn::Mul(cap, hn::Tanh(d, hn::Div(s[i], cap)));
        }
        if (!all_seen) {
          const V k = hn::Iota(d, static_cast<float>(key));
          const auto is_seen = hn::And(hn::Ge(k, hn::Set(d, static_cast<float>(seen[r].begin))),
                                       hn::Lt(k, hn::Set(d, static_cast<float>(seen[r].end))));
          s[i] = hn::IfThenElse(is_seen, s[i], hn::Set(d, -std::numeric_limits<float>::infinity()));
        }
        hn::StoreU(s[i], d, at + i * lanes);
      }
    }
    V most = hn::Set(d, largest[r]);
    for (std::size_t i = 0; i < vectors; ++i) most = hn::Max(most, s[i]);
    next[r] = hn::GetLane(hn::MaxOfLanes(d, most));
  }
}

// What rows' outputs and sums so far are to be multiplied with now that `largest` becomes `next`: 1
// where it has not grown. Looks at whole vectors of rows.
HWY_INLINE void Correct(std::size_t rows, const float* HWY_RESTRICT next,
                        float* HWY_RESTRICT largest, float* HWY_RESTRICT correction) {
  const D d;
  for (std::size_t r = 0; r < rows; r += lanes) {
    const V now = hn::LoadU(d, next + r);
    hn::StoreU(ExpOfNegative(d, hn::Sub(hn::LoadU(d, largest + r), now)), d, correction + r);
    hn::StoreU(now, d, largest + r);
  }
}

// Turns these scores into weights, exp(score - largest), as T's values are multiplied with, and
// adds them to the row's sums, of each lane. A key that is not seen weighs exactly 0.
template <class T, std::size_t Groups>
HWY_NOINLINE void Weigh(const float* HWY_RESTRICT v_scales, std::size_t first, std::size_t rows,
                        const float* HWY_RESTRICT largest, const float* HWY_RESTRICT correction,
                        float* HWY_RESTRICT scores, float* HWY_RESTRICT sums) {
  constexpr std::size_t vectors = Groups * vectors_per_group;
  const D d;
  for (std::size_t r = 0; r < rows; ++r) {
    float* const row = scores + r * tile_keys;
    float* const row_sums = sums + r * attention_row_sums;
    const V most = hn::Set(d, largest[r]);
    V weights[vectors];
    for (std::size_t i = 0; i < vectors; ++i) {
      weights[i] = ExpOfNegative(d, hn::Sub(hn::LoadU(d, row + first + i * lanes), most));
    }
    V sum = hn::Mul(hn::LoadU(d, row_sums), hn::Set(d, correction[r]));
    for (std::size_t i = 0; i < vectors; ++i) sum = hn::Add(sum, weights[i]);
    hn::StoreU(sum, d, row_sums);
    for (std::size_t i = 0; i < vectors; ++i) {
      if (v_scales != nullptr) {
        weights[i] = hn::Mul(weights[i], hn::LoadU(d, v_scales + first + i * lanes));
      }
      StoreFactors<T>(weights[i], first + i * lanes, row);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
