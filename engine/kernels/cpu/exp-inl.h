// exp() of a vector for every input, per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_EXP_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_EXP_INL_H
#undef PLIMSOLL_EXP_INL_H
#else
#define PLIMSOLL_EXP_INL_H
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

// Highway's Exp is defined up to 104 only. Below -104 the result is exactly 0, so that a masked
// score of -infinity weighs nothing; above 88 it is exp(88), the largest power that is finite.
template <class D, class V>
HWY_INLINE V BoundedExp(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  return hn::Exp(d, hn::Min(hn::Max(x, hn::Set(d, -105.0F)), hn::Set(d, 88.0F)));
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
