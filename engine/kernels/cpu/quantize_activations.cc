#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/kernels/cpu/matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/quantize_activations.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using DI = hn::ScalableTag<std::int32_t>;
using DU = hn::ScalableTag<std::uint32_t>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);
constexpr std::size_t block = QuantizedActivations::block;
constexpr std::size_t vectors = block / lanes;

// Blocks are quantized a few side by side: one reduction across lanes and one division serve all.
constexpr std::size_t abreast = HWY_MIN(lanes, 4);
template <class T>
using DA = hn::CappedTag<T, abreast>;

// Lane i of the result: what `op` makes of all lanes of v[i].
#if HWY_TARGET == HWY_SCALAR
template <class DT, class Op>
hn::Vec<DT> Across(DT /*d*/, Op /*op*/, const hn::Vec<DT> (&v)[1]) {
  return v[0];
}
#else
template <class DT, class Op>
HWY_INLINE auto Across(DT d, Op op, const hn::Vec<DT> (&v)[4]) {
  const hn::RepartitionToWide<DT> dw;
  const auto pairs = [&](hn::Vec<DT> a, hn::Vec<DT> b) HWY_ATTR {
    return hn::BitCast(dw, op(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  };
  const auto low = pairs(v[0], v[1]), high = pairs(v[2], v[3]);
  const auto fours = op(hn::BitCast(d, hn::InterleaveLower(dw, low, high)),
                        hn::BitCast(d, hn::InterleaveUpper(dw, low, high)));
  const hn::Half<DT> half;
  const auto folded = op(hn::LowerHalf(half, fours), hn::UpperHalf(half, fours));
  if constexpr (lanes == 8) {
    return folded;
  } else {
    const hn::Half<decltype(half)> quarter;
    return op(hn::LowerHalf(quarter, folded), hn::UpperHalf(quarter, folded));
  }
}
#endif

// Blocks of x, `abreast` or less; `at` points to the first in each array, in which the next lies
// `stride` blocks on.
template <std::size_t Blocks>
HWY_INLINE void QuantizeBlocks(const float* x, const QuantizedActivations& at, std::size_t stride) {
  const D d;
  const DI di;
  const DU du;
  const hn::Rebind<std::int8_t, D> di8;
  const hn::Rebind<std::uint8_t, D> du8;
  const DA<float> da;
  const DA<std::int32_t> dai;
  const auto greater = [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); };
  const auto less = [](auto a, auto b) HWY_ATTR { return hn::Min(a, b); };
  const auto plus = [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); };
  // Magnitudes compare as their bits do; there NaN and infinity are greatest, and are not lost.
  hn::Vec<DI> bits[abreast];
  for (std::size_t b = 0; b < abreast; ++b) {
    bits[b] = hn::Zero(di);
    for (std::size_t i = 0; i < vectors && b < Blocks; ++i) {
      const V v = hn::LoadU(d, x + b * block + i * lanes);
      bits[b] = hn::Max(bits[b], hn::BitCast(di, hn::Abs(v)));
    }
  }
  auto largest = hn::BitCast(da, Across(di, greater, bits));
  // Below 1e-30, 127 / largest overflows; such a block is as good as zero.
  const auto small = hn::Lt(largest, hn::Set(da, 1e-30F));
  // Also false for NaN, as every comparison.
  const auto finite = hn::Le(largest, hn::Set(da, std::numeric_limits<float>::max()));
  const auto usable = hn::AndNot(small, finite);
  HWY_ALIGN float offset[abreast] = {};
  if (at.offset != nullptr) {
    V least[abreast], most[abreast];
    for (std::size_t b = 0; b < abreast; ++b) {
      least[b] = most[b] = hn::Zero(d);
      for (std::size_t i = 0; i < vectors && b < Blocks; ++i) {
        const V v = hn::LoadU(d, x + b * block + i * lanes);
        least[b] = i == 0 ? v : hn::Min(least[b], v);
        most[b] = i == 0 ? v : hn::Max(most[b], v);
      }
    }
    const auto half = hn::Set(da, 0.5F);
    const auto high = Across(d, greater, most);
    const auto low = Across(d, less, least);
    const auto middle =
        hn::IfThenElseZero(usable, hn::Add(hn::Mul(half, high), hn::Mul(half, low)));
    hn::Store(middle, da, offset);
    // Never 0, by which it is divided.
    largest = hn::Max(hn::Max(hn::Sub(high, middle), hn::Sub(middle, low)), hn::Set(da, 1e-30F));
  }
  const auto steps = hn::Set(da, 127.0F);
  const auto unusable =
      hn::IfThenElse(small, hn::Zero(da), hn::Set(da, std::numeric_limits<float>::quiet_NaN()));
  const auto scale = hn::IfThenElse(usable, hn::Div(largest, steps), unusable);
  HWY_ALIGN float scales[abreast], inverse[abreast];
  hn::Store(scale, da, scales);
  hn::Store(hn::IfThenElseZero(usable, hn::Div(steps, largest)), da, inverse);
  // Added to this, a float of at most 2^22 becomes an integer: that of its lowest bits.
  const V round = hn::Set(d, 12582912.0F);
  hn::Vec<DU> sums[abreast];
  for (std::size_t b = 0; b < abreast; ++b) {
    sums[b] = hn::Zero(du);
    if (b >= Blocks) continue;
    std::int8_t* const q = at.q + b * stride * block;
    if (HWY_UNLIKELY(std::isnan(scales[b]))) {
      std::memset(q, 0, block);
      continue;
    }
    const V factor = hn::Set(d, inverse[b]), middle = hn::Set(d, offset[b]);
    for (std::size_t i = 0; i < vectors; ++i) {
      V v = hn::LoadU(d, x + b * block + i * lanes);
      if (at.offset != nullptr) v = hn::Sub(v, middle);
      const auto rounded = hn::BitCast(du, hn::MulAdd(v, factor, round));
      sums[b] = hn::Add(sums[b], hn::Sub(rounded, hn::BitCast(du, round)));
      hn::StoreU(hn::BitCast(di8, hn::TruncateTo(du8, rounded)), di8, q + i * lanes);
    }
  }
  const auto all = hn::BitCast(dai, Across(du, plus, sums));
  HWY_ALIGN std::int32_t starts[abreast];
  HWY_ALIGN float scaled_sums[abreast];
  hn::Store(hn::Neg(hn::ShiftLeft<4>(all)), dai, starts);
  hn::Store(hn::Mul(scale, hn::ConvertTo(da, all)), da, scaled_sums);
  for (std::size_t b = 0; b < Blocks; ++b) {
    at.scale[b * stride] = scales[b];
    at.start[b * stride] = starts[b];
    at.scaled_sum[b * stride] = scaled_sums[b];
    if (at.offset != nullptr) at.offset[b * stride] = offset[b];
  }
}

// Token t's block b among `tokens`.
HWY_INLINE QuantizedActivations At(const QuantizedActivations& out, std::size_t tokens,
                                   std::size_t blocks, std::size_t t, std::size_t b) {
  constexpr std::size_t tile_tokens = QuantizedActivations::tile_tokens;
  const std::size_t tile = t / tile_tokens * tile_tokens;
  const std::size_t in_tile = std::min(tile_tokens, tokens - tile);
  const std::size_t i = tile * blocks + b * in_tile + (t - tile);
  return {out.q + i * block, out.scale + i, out.start + i, out.scaled_sum + i,
          out.offset != nullptr ? out.offset + i : nullptr};
}

// rest = x - scale * q - offset, of one block.
HWY_INLINE void Subtract(const float* x, const QuantizedActivations& at, float* rest) {
  const D d;
  const V scale = hn::Set(d, *at.scale);
  const V offset = hn::Set(d, at.offset != nullptr ? *at.offset : 0.0F);
  for (std::size_t i = 0; i < block; i += lanes) {
    const auto q = hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<std::int8_t, D>(), at.q + i));
    const V left = hn::Sub(hn::LoadU(d, x + i), offset);
    hn::Store(hn::NegMulAdd(hn::ConvertTo(d, q), scale, left), d, rest + i);
  }
}

// Blocks [first, first + Blocks) of token t, and of its rest.
template <std::size_t Blocks>
HWY_INLINE void QuantizeOf(const float* x, std::size_t tokens, std::size_t blocks, std::size_t t,
                           std::size_t first, const QuantizedActivations& out,
                           const QuantizedActivations* rest) {
  constexpr std::size_t tile_tokens = QuantizedActivations::tile_tokens;
  const std::size_t stride = std::min(tile_tokens, tokens - t / tile_tokens * tile_tokens);
  QuantizeBlocks<Blocks>(x, At(out, tokens, blocks, t, first), stride);
  if (rest == nullptr) return;
  HWY_ALIGN float lost[Blocks * block];
  for (std::size_t b = 0; b < Blocks; ++b) {
    Subtract(x + b * block, At(out, tokens, blocks, t, first + b), lost + b * block);
  }
  QuantizeBlocks<Blocks>(lost, At(*rest, tokens, blocks, t, first), stride);
}

void QuantizeTokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                    std::size_t begin, std::size_t end, const QuantizedActivations& out,
                    const QuantizedActivations* rest) {
  const std::size_t blocks = cols / block;
  for (std::size_t t = begin; t < end; ++t) {
    const float* const row = x + t * ldx;
    std::size_t b = 0;
    for (; b + abreast <= blocks; b += abreast) {
      QuantizeOf<abreast>(row + b * block, tokens, blocks, t, b, out, rest);
    }
    for (; b < blocks; ++b) QuantizeOf<1>(row + b * block, tokens, blocks, t, b, out, rest);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(QuantizeTokens);

QuantizedActivations QuantizedActivations::in(std::byte* buffer, std::size_t tokens,
                                              std::size_t cols, bool with_offset) {
  const auto aligned = [](std::size_t n) { return (n + 63) / 64 * 64; };
  const std::size_t each = aligned(tokens * (cols / block) * sizeof(float));
  std::byte* const scales = buffer + aligned(tokens * cols);
  return {reinterpret_cast<std::int8_t*>(buffer), reinterpret_cast<float*>(scales),
          reinterpret_cast<std::int32_t*>(scales + each),
          reinterpret_cast<float*>(scales + 2 * each),
          with_offset ? reinterpret_cast<float*>(scales + 3 * each) : nullptr};
}

void quantize_tokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                     std::size_t begin, std::size_t end, const QuantizedActivations& out,
                     const QuantizedActivations* rest) {
  assert(cols % QuantizedActivations::block == 0);
  PLIMSOLL_DISPATCH(QuantizeTokens)(x, ldx, tokens, cols, begin, end, out, rest);
}

void quantize_activations(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                          const QuantizedActivations& out, ThreadPool& pool) {
  pool.parallel_for(tokens, 4, [&](std::size_t begin, std::size_t end, int) {
    quantize_tokens(x, ldx, tokens, cols, begin, end, out, nullptr);
  });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
