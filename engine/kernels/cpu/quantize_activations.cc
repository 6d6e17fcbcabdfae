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
// `stride` blocks on. The sums of what stands for x go to `sums`.
template <std::size_t Blocks>
HWY_INLINE void QuantizeBlocks(const float* x, const QuantizedActivations& at, std::size_t stride,
                               float* sums) {
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
  hn::Vec<DU> totals[abreast];
  for (std::size_t b = 0; b < abreast; ++b) {
    totals[b] = hn::Zero(du);
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
      totals[b] = hn::Add(totals[b], hn::Sub(rounded, hn::BitCast(du, round)));
      hn::StoreU(hn::BitCast(di8, hn::TruncateTo(du8, rounded)), di8, q + i * lanes);
    }
  }
  const auto all = hn::BitCast(dai, Across(du, plus, totals));
  HWY_ALIGN std::int32_t starts[abreast];
  hn::Store(hn::Neg(hn::ShiftLeft<4>(all)), dai, starts);
  HWY_ALIGN float scaled[abreast];
  hn::Store(hn::Mul(scale, hn::ConvertTo(da, all)), da, scaled);
  for (std::size_t b = 0; b < Blocks; ++b) {
    at.scale[b * stride] = scales[b];
    at.start[b * stride] = starts[b];
    sums[b] = scaled[b] + block * offset[b];
    if (at.offset != nullptr) at.offset[b * stride] = offset[b];
  }
}

constexpr std::size_t most_blocks = PackedMatrix::most_cols / block;
constexpr std::size_t sums_at_once = 16;

// The sums of a token's blocks as integers; those up to the next multiple of sums_at_once are
// overwritten. `to` points to the first two in each array, the next two lie `stride` pairs on.
void StoreSums(float* sums, std::size_t blocks, std::size_t stride, std::int16_t* to,
               float* sum_scale) {
  const D d;
  const DU du;
  const hn::Rebind<std::uint16_t, D> du16;
  constexpr std::size_t n = sums_at_once / lanes;
  const std::size_t end = (blocks + sums_at_once - 1) / sums_at_once * sums_at_once;
  std::fill(sums + blocks, sums + end, 0.0F);
  V magnitudes[n], greatest[n];
  for (std::size_t j = 0; j < n; ++j) magnitudes[j] = greatest[j] = hn::Zero(d);
  for (std::size_t b = 0; b < end; b += sums_at_once) {
    for (std::size_t j = 0; j < n; ++j) {
      const V magnitude = hn::Abs(hn::Load(d, sums + b + j * lanes));
      magnitudes[j] = hn::Add(magnitudes[j], magnitude);
      greatest[j] = hn::Max(greatest[j], magnitude);
    }
  }
  HWY_ALIGN float total[sums_at_once], most[sums_at_once];
  for (std::size_t j = 0; j < n; ++j) {
    hn::Store(magnitudes[j], d, total + j * lanes);
    hn::Store(greatest[j], d, most + j * lanes);
  }
  // In one order on every instruction set.
  for (std::size_t half = sums_at_once / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) {
      total[i] += total[i + half];
      most[i] = std::max(most[i], most[i + half]);
    }
  }
  // Each is rounded by a half at most.
  constexpr float budget = QuantizedActivations::most_sums - most_blocks / 2.0F - 1.0F;
  const float step = std::max(total[0] / budget, most[0] / 32767.0F);
  // Of a smaller step the inverse overflows; such sums are as good as zero. NaN and infinity stay.
  *sum_scale = step < 1e-37F ? 0.0F : step;
  const bool usable = step >= 1e-37F && step <= std::numeric_limits<float>::max();
  const V factor = hn::Set(d, usable ? 1.0F / step : 0.0F);
  const V round = hn::Set(d, 12582912.0F);  // as above
  for (std::size_t b = 0; b < end; b += sums_at_once) {
    HWY_ALIGN std::uint16_t integers[sums_at_once];
    for (std::size_t j = 0; j < n; ++j) {
      const V sum = hn::Load(d, sums + b + j * lanes);
      const auto rounded = hn::BitCast(du, hn::MulAdd(sum, factor, round));
      hn::Store(hn::TruncateTo(du16, rounded), du16, integers + j * lanes);
    }
    for (std::size_t i = 0; i < sums_at_once && b + i < blocks; i += 2) {
      std::memcpy(to + (b + i) * stride, integers + i, 2 * sizeof(*integers));
    }
  }
}

// Where a token's arrays begin, and how many blocks lie from one of its blocks to the next.
struct Place {
  std::size_t first, first_pair, stride;
};
Place PlaceOf(std::size_t t, std::size_t tokens, std::size_t blocks) {
  constexpr std::size_t tile_tokens = QuantizedActivations::tile_tokens;
  const std::size_t tile = t / tile_tokens * tile_tokens, pairs = (blocks + 1) / 2;
  return {.first = tile * blocks + (t - tile),
          .first_pair = tile * pairs + (t - tile),
          .stride = std::min(tile_tokens, tokens - tile)};
}

// That token's block b.
HWY_INLINE QuantizedActivations At(const QuantizedActivations& out, const Place& place,
                                   std::size_t b) {
  const std::size_t i = place.first + b * place.stride;
  return {.q = out.q + i * block,
          .scale = out.scale + i,
          .start = out.start + i,
          .offset = out.offset != nullptr ? out.offset + i : nullptr};
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

// Blocks from `first` on of a token, and of its rest.
template <std::size_t Blocks>
HWY_INLINE void QuantizeOf(const float* x, const Place& place, std::size_t first,
                           const QuantizedActivations& out, float* sums,
                           const QuantizedActivations* rest, float* rest_sums) {
  QuantizeBlocks<Blocks>(x, At(out, place, first), place.stride, sums);
  if (rest == nullptr) return;
  HWY_ALIGN float lost[Blocks * block];
  for (std::size_t b = 0; b < Blocks; ++b) {
    Subtract(x + b * block, At(out, place, first + b), lost + b * block);
  }
  QuantizeBlocks<Blocks>(lost, At(*rest, place, first), place.stride, rest_sums);
}

void QuantizeTokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                    std::size_t begin, std::size_t end, const QuantizedActivations& out,
                    const QuantizedActivations* rest) {
  HWY_ALIGN float sums[most_blocks], rest_sums[most_blocks];
  const std::size_t blocks = cols / block;
  for (std::size_t t = begin; t < end; ++t) {
    const float* const row = x + t * ldx;
    const Place place = PlaceOf(t, tokens, blocks);
    std::size_t b = 0;
    for (; b + abreast <= blocks; b += abreast) {
      QuantizeOf<abreast>(row + b * block, place, b, out, sums + b, rest, rest_sums + b);
    }
    for (; b < blocks; ++b) {
      QuantizeOf<1>(row + b * block, place, b, out, sums + b, rest, rest_sums + b);
    }
    const std::size_t pair = 2 * place.first_pair;
    StoreSums(sums, blocks, place.stride, out.sums + pair, out.sum_scale + t);
    if (rest != nullptr) {
      StoreSums(rest_sums, blocks, place.stride, rest->sums + pair, rest->sum_scale + t);
    }
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
  const std::size_t blocks = cols / block;
  const auto take = [&](std::size_t bytes) {
    std::byte* const taken = buffer;
    buffer += (bytes + 63) / 64 * 64;
    return taken;
  };
  QuantizedActivations out;
  out.q = reinterpret_cast<std::int8_t*>(take(tokens * cols));
  out.scale = reinterpret_cast<float*>(take(tokens * blocks * sizeof(float)));
  out.start = reinterpret_cast<std::int32_t*>(take(tokens * blocks * sizeof(std::int32_t)));
  out.sums =
      reinterpret_cast<std::int16_t*>(take(tokens * ((blocks + 1) / 2) * 2 * sizeof(std::int16_t)));
  out.sum_scale = reinterpret_cast<float*>(take(tokens * sizeof(float)));
  if (with_offset) {
    out.offset = reinterpret_cast<float*>(take(tokens * blocks * sizeof(float)));
  }
  return out;
}

void quantize_tokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                     std::size_t begin, std::size_t end, const QuantizedActivations& out,
                     const QuantizedActivations* rest) {
  assert(cols % QuantizedActivations::block == 0 && cols <= PackedMatrix::most_cols);
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
