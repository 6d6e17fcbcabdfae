// What segments of keys make of a row, and how it is put together; per target (see dispatch.h; the
// guard toggles on purpose).
#if defined(PLIMSOLL_ATTENTION_PARTS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_PARTS_INL_H
#undef PLIMSOLL_ATTENTION_PARTS_INL_H
#else
#define PLIMSOLL_ATTENTION_PARTS_INL_H
#endif

#include <algorithm>
#include <cstddef>

#include "engine/kernels/cpu/attention_tile-inl.h"
#include "engine/kernels/cpu/exp-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

struct Part {
  const float* out;  // [head_dim], not yet divided by the sum
  float largest;
  float sum;
};

HWY_INLINE float SumOfRow(const float* sums) {
  const D d;
  return hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, sums)));
}

HWY_INLINE void StorePart(const Part& part, std::size_t head_dim, float* HWY_RESTRICT to) {
  std::copy_n(part.out, head_dim, to);
  to[head_dim] = part.largest;
  to[head_dim + 1] = part.sum;
}

HWY_INLINE Part LoadPart(const float* from, std::size_t head_dim) {
  return {from, from[head_dim], from[head_dim + 1]};
}

// Adds a row's part of a segment to `total`, which holds what its segments before made: none where
// this is its first. The last makes the output. Which segments a row has hangs on its own keys
// alone.
HWY_INLINE void AddPart(const Part& part, bool first, bool last, std::size_t head_dim,
                        float* HWY_RESTRICT total, float* HWY_RESTRICT out) {
  Part whole = part;
  if (!first) {
    const hn::CappedTag<float, 1> one;
    const Part before = LoadPart(total, head_dim);
    const float largest = std::max(before.largest, part.largest);
    const auto factor = [&](float of) HWY_ATTR {
      return hn::GetLane(ExpOfNegative(one, hn::Set(one, of - largest)));
    };
    const float old_factor = factor(before.largest), factor_now = factor(part.largest);
    for (std::size_t i = 0; i < head_dim; ++i) {
      total[i] = total[i] * old_factor + part.out[i] * factor_now;
    }
    whole = {total, largest, before.sum * old_factor + part.sum * factor_now};
  }
  if (last) {
    const float factor = 1.0F / whole.sum;
    for (std::size_t i = 0; i < head_dim; ++i) out[i] = whole.out[i] * factor;
  } else if (first) {
    StorePart(whole, head_dim, total);
  } else {
    total[head_dim] = whole.largest;
    total[head_dim + 1] = whole.sum;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
