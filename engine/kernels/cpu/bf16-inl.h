// Rounding to bfloat16, per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_BF16_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_BF16_INL_H
#undef PLIMSOLL_BF16_INL_H
#else
#define PLIMSOLL_BF16_INL_H
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

// To the nearest bfloat16, as the upper half of a float's bits. Not a number stays that.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> RoundedToBf16(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  const auto nan = hn::RebindMask(du, hn::IsNaN(x));
  const auto upper = hn::And(hn::IfThenElse(nan, quiet, nearest), hn::Set(du, 0xFFFF0000));
  return hn::BitCast(d, upper);
}

// out[i] = x[i] for a whole vector.
template <class D>
HWY_INLINE void StoreAsBf16(D d, hwy::HWY_NAMESPACE::Vec<D> x, std::uint16_t* out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<std::uint16_t, D> halves;
  const auto bits = hn::BitCast(hn::RebindToUnsigned<D>(), RoundedToBf16(d, x));
  hn::StoreU(hn::DemoteTo(halves, hn::BitCast(di, hn::ShiftRight<16>(bits))), halves, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
