#include <cassert>
#include <cstring>

#include "engine/kernels/cpu/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/write_kv.cc"
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

// out[i] = x[i] as f16, at most 65504 in magnitude: infinity times a weight of 0 is NaN.
void ToHalf(const float* x, std::size_t n, hwy::float16_t* out) {
  const D d;
  const hn::Rebind<hwy::float16_t, D> dh;
  const V largest = hn::Set(d, 65504.0F);
  for (std::size_t i = 0; i < n; i += lanes) {
    const V v = hn::Max(hn::Min(hn::LoadU(d, x + i), largest), hn::Neg(largest));
    hn::StoreU(hn::DemoteTo(dh, v), dh, out + i);
  }
}

// out[i] = round(x[i] / scale); returns scale, such that the largest becomes +-127.
float ToInt8(const float* x, std::size_t n, std::int8_t* out) {
  const D d;
  const hn::Rebind<std::int8_t, D> di8;
  V largest = hn::Zero(d);
  for (std::size_t i = 0; i < n; i += lanes) {
    largest = hn::Max(largest, hn::Abs(hn::LoadU(d, x + i)));
  }
  const float amax = hn::GetLane(hn::MaxOfLanes(d, largest));
  if (amax < 1e-30F) {  // 127 / amax would overflow
    std::memset(out, 0, n);
    return 0.0F;
  }
  const V inverse = hn::Set(d, 127.0F / amax);
  for (std::size_t i = 0; i < n; i += lanes) {
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), inverse));
    hn::StoreU(hn::DemoteTo(di8, q), di8, out + i);
  }
  return amax / 127.0F;
}

// Converts one head's row and stores it as row `slot` of a block's V, or as column `slot` of its
// transposed K. `row` is a zero-padded copy: head_dim need not be a multiple of the vector.
template <class T, class Convert>
HWY_INLINE float StoreRow(const float* x, std::size_t head_dim, T* head, std::size_t slot,
                          std::size_t block_tokens, bool transposed, Convert convert) {
  constexpr std::size_t piece = max_head_dim;
  HWY_ALIGN float row[piece];
  HWY_ALIGN T converted[piece];
  const std::size_t padded = (head_dim + lanes - 1) / lanes * lanes;
  std::memcpy(row, x, head_dim * sizeof(float));
  std::memset(row + head_dim, 0, (padded - head_dim) * sizeof(float));
  const float scale = convert(row, padded, converted);
  if (transposed) {
    for (std::size_t i = 0; i < head_dim; ++i) head[i * block_tokens + slot] = converted[i];
  } else {
    std::memcpy(head + slot * head_dim, converted, head_dim * sizeof(T));
  }
  return scale;
}

void WriteKv(const KvLayout& layout, std::byte* pool_data, std::uint32_t layer,
             std::span<const BlockId> blocks, std::uint32_t start_position, std::uint32_t tokens,
             const float* k, const float* v, std::size_t row_stride) {
  const std::size_t block_tokens = layout.block_tokens;
  const std::size_t head_dim = layout.head_dim;
  for (std::uint32_t t = 0; t < tokens; ++t, k += row_stride, v += row_stride) {
    const std::uint32_t position = start_position + t;
    const std::size_t slot = position % block_tokens;
    std::byte* const block =
        pool_data + blocks[position / block_tokens].get() * layout.block_bytes();
    for (std::size_t head = 0; head < layout.kv_heads; ++head) {
      const float* const k_row = k + head * head_dim;
      const float* const v_row = v + head * head_dim;
      std::byte* const k_head = block + layout.k_offset(layer) + head * layout.head_bytes();
      std::byte* const v_head = block + layout.v_offset(layer) + head * layout.head_bytes();
      if (layout.type == KvType::f16) {
        const auto convert = [](const float* x, std::size_t n, hwy::float16_t* out) HWY_ATTR {
          ToHalf(x, n, out);
          return 0.0F;
        };
        StoreRow(k_row, head_dim, reinterpret_cast<hwy::float16_t*>(k_head), slot, block_tokens,
                 true, convert);
        StoreRow(v_row, head_dim, reinterpret_cast<hwy::float16_t*>(v_head), slot, block_tokens,
                 false, convert);
      } else {
        const auto convert = [](const float* x, std::size_t n, std::int8_t* out)
                                 HWY_ATTR { return ToInt8(x, n, out); };
        auto* const k_scales = reinterpret_cast<float*>(block + layout.k_scales_offset(layer));
        auto* const v_scales = reinterpret_cast<float*>(block + layout.v_scales_offset(layer));
        k_scales[head * block_tokens + slot] =
            StoreRow(k_row, head_dim, reinterpret_cast<std::int8_t*>(k_head), slot, block_tokens,
                     true, convert);
        v_scales[head * block_tokens + slot] =
            StoreRow(v_row, head_dim, reinterpret_cast<std::int8_t*>(v_head), slot, block_tokens,
                     false, convert);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(WriteKv);

void write_kv(const KvLayout& layout, std::byte* pool_data, std::uint32_t layer,
              std::span<const BlockId> blocks, std::uint32_t start_position, std::uint32_t tokens,
              const float* k, const float* v, std::size_t row_stride) {
  assert(layout.block_tokens % 16 == 0);
  assert(layout.head_dim <= max_head_dim);
  assert(tokens == 0 || blocks.size() >= layout.blocks_for(start_position + tokens));
  PLIMSOLL_DISPATCH(WriteKv)
  (layout, pool_data, layer, blocks, start_position, tokens, k, v, row_stride);
}

}  // namespace plimsoll
#endif  // HWY_ONCE
