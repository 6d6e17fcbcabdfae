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

// `at` points to this block in each array.
HWY_INLINE void QuantizeBlock(const float* x, const QuantizedActivations& at) {
  const D d;
  const hn::Rebind<std::int32_t, D> di;
  // Magnitudes compare as their bits do; there NaN and infinity are greatest, and are not lost.
  auto bits = hn::Zero(di);
  for (std::size_t i = 0; i < block; i += lanes) {
    bits = hn::Max(bits, hn::BitCast(di, hn::Abs(hn::LoadU(d, x + i))));
  }
  const std::int32_t top = hn::GetLane(hn::MaxOfLanes(di, bits));
  float largest;
  std::memcpy(&largest, &top, sizeof(largest));
  // Also for NaN, of which every comparison is false.
  if (!(largest >= 1e-30F && largest <= std::numeric_limits<float>::max())) {
    std::memset(at.q, 0, block);
    *at.sum = 0;
    // Below 1e-30, 127 / largest overflows; such a block is as good as zero.
    *at.scale = *at.scaled_sum = largest < 1e-30F ? 0.0F : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const V inverse = hn::Set(d, 127.0F / largest);
  auto sum = hn::Zero(di);
  for (std::size_t i = 0; i < block; i += lanes) {
    const auto v = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), inverse));
    sum = hn::Add(sum, v);
    hn::StoreU(hn::DemoteTo(hn::Rebind<std::int8_t, D>(), v), hn::Rebind<std::int8_t, D>(),
               at.q + i);
  }
  *at.scale = largest / 127.0F;
  *at.sum = hn::GetLane(hn::SumOfLanes(di, sum));
  *at.scaled_sum = *at.scale * static_cast<float>(*at.sum);
}

// Tokens [begin, end) of `tokens`.
void QuantizeTokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                    std::size_t begin, std::size_t end, const QuantizedActivations& out) {
  constexpr std::size_t tile_tokens = QuantizedActivations::tile_tokens;
  const std::size_t blocks = cols / block;
  for (std::size_t t = begin; t < end; ++t) {
    const std::size_t tile = t / tile_tokens * tile_tokens;
    const std::size_t in_tile = std::min(tile_tokens, tokens - tile);
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t i = tile * blocks + b * in_tile + (t - tile);
      QuantizeBlock(x + t * ldx + b * block,
                    {out.q + i * block, out.scale + i, out.sum + i, out.scaled_sum + i});
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
                                              std::size_t cols) {
  const auto aligned = [](std::size_t n) { return (n + 63) / 64 * 64; };
  const std::size_t each = aligned(tokens * (cols / block) * sizeof(float));
  std::byte* const scales = buffer + aligned(tokens * cols);
  return {reinterpret_cast<std::int8_t*>(buffer), reinterpret_cast<float*>(scales),
          reinterpret_cast<std::int32_t*>(scales + each),
          reinterpret_cast<float*>(scales + 2 * each)};
}

void quantize_activations(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                          const QuantizedActivations& out, ThreadPool& pool) {
  assert(cols % QuantizedActivations::block == 0);
  const auto quantize = PLIMSOLL_DISPATCH(QuantizeTokens);
  pool.parallel_for(tokens, 4, [&](std::size_t begin, std::size_t end, int) {
    quantize(x, ldx, tokens, cols, begin, end, out);
  });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
