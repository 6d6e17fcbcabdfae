// Rotation of a head's keys and queries, per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_ROTATE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ROTATE_INL_H
#undef PLIMSOLL_ROTATE_INL_H
#else
#define PLIMSOLL_ROTATE_INL_H
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "engine/kv/kv_layout.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

// x = H x, where H is a Hadamard matrix over its root: orthogonal, so that products of two rotated
// vectors are what they were. Keys have a few large channels; it spreads each over the group that
// it shares a scale with, whose range is smaller then, so that 4 bits lose less of it (QuaRot,
// Ashkboos et al. 2024, rotate whole heads). Each group is rotated by itself, or, where n is not a
// multiple, pieces of the largest power of two that divides n. Sums and one product: the same bits
// on every instruction set.
HWY_INLINE void Rotate(float* x, std::size_t n) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  constexpr std::size_t lanes = HWY_LANES(float);
  constexpr std::size_t most = KvLayout::group_columns;
  const std::size_t piece = std::min(n & (~n + 1), most);
  const std::size_t half = piece / 2;
  const float norm = 1.0F / std::sqrt(static_cast<float>(piece));
  HWY_ALIGN float other[most];
  for (float* const end = x + n; x < end; x += piece) {
    float* from = x;
    float* to = other;
    // Every stage is the same: sums of neighbours into the lower half, differences into the upper.
    for (std::size_t done = 1; done < piece; done *= 2) {
      std::size_t i = 0;
      for (; i + lanes <= half; i += lanes) {
        hn::Vec<decltype(d)> even, odd;
        hn::LoadInterleaved2(d, from + 2 * i, even, odd);
        hn::StoreU(hn::Add(even, odd), d, to + i);
        hn::StoreU(hn::Sub(even, odd), d, to + half + i);
      }
      for (; i < half; ++i) {
        to[i] = from[2 * i] + from[2 * i + 1];
        to[half + i] = from[2 * i] - from[2 * i + 1];
      }
      std::swap(from, to);
    }
    for (std::size_t i = 0; i < piece; ++i) x[i] = from[i] * norm;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
