// exp() of a vector for every input, per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_EXP_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_EXP_INL_H
#undef PLIMSOLL_EXP_INL_H
#else
#define PLIMSOLL_EXP_INL_H
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

// exp(x) within 2e-7 of itself, for -87 <= x <= 88. x = n ln 2 + r, |r| <= ln 2 / 2; the polynomial
// is that of Cephes' expf (Moshier).
template <class D, class V>
HWY_INLINE V ExpInRange(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const V round = hn::Set(d, 12582912.0F);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504F), round);
  const V n = hn::Sub(shifted, round);
  // ln 2 in two parts, the first so short that its product with n is exact.
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
  r = hn::MulAdd(n, hn::Set(d, 2.12194440e-4F), r);
  V poly = hn::MulAdd(hn::Set(d, 1.9875691500e-4F), r, hn::Set(d, 1.3981999507e-3F));
  poly = hn::MulAdd(poly, r, hn::Set(d, 8.3334519073e-3F));
  poly = hn::MulAdd(poly, r, hn::Set(d, 4.1665795894e-2F));
  poly = hn::MulAdd(poly, r, hn::Set(d, 1.6666665459e-1F));
  poly = hn::MulAdd(poly, r, hn::Set(d, 5.0000001201e-1F));
  const V e = hn::MulAdd(poly, hn::Mul(r, r), hn::Add(r, hn::Set(d, 1.0F)));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));  // n
  return hn::BitCast(d, hn::Add(hn::BitCast(di, e), exponent));
}

// The same for every input. Below -87, where it leaves the normal floats, it is exactly 0; above 88
// it is exp(88), the largest integer power that is finite.
template <class D, class V>
HWY_INLINE V BoundedExp(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const V least = hn::Set(d, -87.0F);
  const V bounded = hn::Min(hn::Max(x, least), hn::Set(d, 88.0F));
  return hn::IfThenElseZero(hn::Ge(x, least), ExpInRange(d, bounded));
}

// The same for no input above 0, so that a masked score of -infinity weighs nothing.
template <class D, class V>
HWY_INLINE V ExpOfNegative(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.0F)), ExpInRange(d, x));
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
