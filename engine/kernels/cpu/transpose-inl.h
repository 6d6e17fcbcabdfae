// Transposition of a float matrix, per target (see dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_TRANSPOSE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_TRANSPOSE_INL_H
#undef PLIMSOLL_TRANSPOSE_INL_H
#else
#define PLIMSOLL_TRANSPOSE_INL_H
#endif

#include <cstddef>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

// dst[c * ldd + r] = src[r * lds + c] for r < rows, c < cols.
HWY_INLINE void Transpose(const float* HWY_RESTRICT src, std::size_t lds, std::size_t rows,
                          std::size_t cols, float* HWY_RESTRICT dst, std::size_t ldd) {
  std::size_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  const hn::RepartitionToWide<decltype(d)> dw;
  constexpr std::size_t lanes = HWY_LANES(float);
  for (; r + 4 <= rows; r += 4) {
    std::size_t c = 0;
    for (; c + lanes <= cols; c += lanes) {
      // 4 x 4 within each 128 bits: pairs of rows, then pairs of pairs.
      const float* const at = src + r * lds + c;
      const auto row0 = hn::LoadU(d, at), row1 = hn::LoadU(d, at + lds);
      const auto row2 = hn::LoadU(d, at + 2 * lds), row3 = hn::LoadU(d, at + 3 * lds);
      const auto low01 = hn::BitCast(dw, hn::InterleaveLower(d, row0, row1));
      const auto low23 = hn::BitCast(dw, hn::InterleaveLower(d, row2, row3));
      const auto high01 = hn::BitCast(dw, hn::InterleaveUpper(d, row0, row1));
      const auto high23 = hn::BitCast(dw, hn::InterleaveUpper(d, row2, row3));
      HWY_ALIGN float columns[4][lanes];
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, low01, low23)), d, columns[0]);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, low01, low23)), d, columns[1]);
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, high01, high23)), d, columns[2]);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, high01, high23)), d, columns[3]);
      for (std::size_t j = 0; j < lanes; ++j) {
        std::memcpy(dst + (c + j) * ldd + r, columns[j % 4] + j / 4 * 4, 4 * sizeof(float));
      }
    }
    for (; c < cols; ++c) {
      for (std::size_t i = r; i < r + 4; ++i) dst[c * ldd + i] = src[i * lds + c];
    }
  }
#endif
  for (; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) dst[c * ldd + r] = src[r * lds + c];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
