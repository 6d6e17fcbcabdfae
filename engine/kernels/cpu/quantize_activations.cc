#include <algorithm>
#include <cassert>
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
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);
constexpr std::size_t block = QuantizedActivations::block;
constexpr std::size_t vectors = block / lanes;

// `at` points to this block in each array.
HWY_INLINE void QuantizeBlock(const float* x, const QuantizedActivations& at) {
  const D d;
  const hn::Rebind<std::int32_t, D> di;
  const hn::Rebind<std::int8_t, D> di8;
  V v[vectors];
  for (std::size_t i = 0; i < vectors; ++i) v[i] = hn::LoadU(d, x + i * lanes);
  // Magnitudes compare as their bits do; there NaN and infinity are greatest, and are not lost.
  auto bits = hn::BitCast(di, hn::Abs(v[0]));
  for (std::size_t i = 1; i < vectors; ++i) bits = hn::Max(bits, hn::BitCast(di, hn::Abs(v[i])));
  const std::int32_t top = hn::GetLane(hn::MaxOfLanes(di, bits));
  float largest;
  std::memcpy(&largest, &top, sizeof(largest));
  // Also for NaN, of which every comparison is false.
  if (!(largest >= 1e-30F && largest <= std::numeric_limits<float>::max())) {
    std::memset(at.q, 0, block);
    *at.start = 0;
    if (at.offset != nullptr) *at.offset = 0.0F;
    // Below 1e-30, 127 / largest overflows; such a block is as good as zero.
    *at.scale = *at.scaled_sum = largest < 1e-30F ? 0.0F : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  if (at.offset != nullptr) {
    V least = v[0], most = v[0];
    for (std::size_t i = 1; i < vectors; ++i) {
      least = hn::Min(least, v[i]);
      most = hn::Max(most, v[i]);
    }
    const float high = hn::GetLane(hn::MaxOfLanes(d, most));
    *at.offset = 0.5F * high + 0.5F * hn::GetLane(hn::MinOfLanes(d, least));
    const V middle = hn::Set(d, *at.offset);
    for (V& value : v) value = hn::Sub(value, middle);
    // Never 0, by which it is divided.
    largest = std::max(high - *at.offset, 1e-30F);
  }
  const V inverse = hn::Set(d, 127.0F / largest);
  auto sum = hn::Zero(di);
  for (std::size_t i = 0; i < vectors; ++i) {
    const auto q = hn::NearestInt(hn::Mul(v[i], inverse));
    sum = hn::Add(sum, q);
    hn::StoreU(hn::DemoteTo(di8, q), di8, at.q + i * lanes);
  }
  *at.scale = largest / 127.0F;
  const std::int32_t all = hn::GetLane(hn::SumOfLanes(di, sum));
  *at.start = -16 * all;
  *at.scaled_sum = *at.scale * static_cast<float>(all);
}

// Block b of token t among `tokens`.
HWY_INLINE QuantizedActivations At(const QuantizedActivations& out, std::size_t tokens,
                                   std::size_t blocks, std::size_t t, std::size_t b) {
  constexpr std::size_t tile_tokens = QuantizedActivations::tile_tokens;
  const std::size_t tile = t / tile_tokens * tile_tokens;
  const std::size_t in_tile = std::min(tile_tokens, tokens - tile);
  const std::size_t i = tile * blocks + b * in_tile + (t - tile);
  return {out.q + i * block, out.scale + i, out.start + i, out.scaled_sum + i,
          out.offset != nullptr ? out.offset + i : nullptr};
}

// rest = x - scale * q - offset
HWY_INLINE void Subtract(const float* x, const QuantizedActivations& at, float* rest) {
  const D d;
  const V scale = hn::Set(d, *at.scale);
  const V offset = hn::Set(d, at.offset != nullptr ? *at.offset : 0.0F);
  for (std::size_t i = 0; i < block; i += lanes) {
    const auto q = hn::PromoteTo(hn::Rebind<std::int32_t, D>(),
                                 hn::LoadU(hn::Rebind<std::int8_t, D>(), at.q + i));
    const V left = hn::Sub(hn::LoadU(d, x + i), offset);
    hn::Store(hn::NegMulAdd(hn::ConvertTo(d, q), scale, left), d, rest + i);
  }
}

void QuantizeTokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                    std::size_t begin, std::size_t end, const QuantizedActivations& out,
                    const QuantizedActivations* rest) {
  HWY_ALIGN float lost[block];
  const std::size_t blocks = cols / block;
  for (std::size_t t = begin; t < end; ++t) {
    for (std::size_t b = 0; b < blocks; ++b) {
      const float* const values = x + t * ldx + b * block;
      const QuantizedActivations at = At(out, tokens, blocks, t, b);
      QuantizeBlock(values, at);
      if (rest == nullptr) continue;
      Subtract(values, at, lost);
      QuantizeBlock(lost, At(*rest, tokens, blocks, t, b));
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
