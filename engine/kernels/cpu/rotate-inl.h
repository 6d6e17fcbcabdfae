// Rotation of a head's keys and queries, per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_ROTATE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ROTATE_INL_H
#undef PLIMSOLL_ROTATE_INL_H
#else
#define PLIMSOLL_ROTATE_INL_H
#endif

#include <cmath>
#include <cstddef>
#include <utility>

#include "engine/kernels/cpu/attention.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

// x = H x, where H is a Hadamard matrix over its root: orthogonal, so that products of two rotated
// vectors are what they were. It spreads a few large channels, as keys have them, over all of them:
// what is left has the smaller range, and loses less to 4 bits (QuaRot, Ashkboos et al. 2024).
// Pieces of the largest power of two that divides n are rotated by themselves. Only sums: the same
// bits on every instruction set. n <= max_head_dim.
HWY_INLINE void Rotate(float* x, std::size_t n) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  constexpr std::size_t lanes = HWY_LANES(float);
  const std::size_t piece = n & (~n + 1);
  const std::size_t half = piece / 2;
  const float norm = 1.0F / std::sqrt(static_cast<float>(piece));
  HWY_ALIGN float other[max_head_dim];
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
