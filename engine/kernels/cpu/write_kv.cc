#include <algorithm>
#include <cassert>
#include <cstring>

#include "engine/kernels/cpu/attention.h"
#include "engine/quantize/dequantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/write_kv.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/bf16-inl.h"
#include "engine/kernels/cpu/rotate-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);
constexpr std::size_t group_columns = KvLayout::group_columns;

// out[i] = x[i] as f16, at most 65504 in magnitude, NaN too: infinity times a weight of 0 is NaN.
void ToHalf(const float* x, std::size_t n, hwy::float16_t* out) {
  const D d;
  const hn::Rebind<hwy::float16_t, D> dh;
  const V largest = hn::Set(d, 65504.0F);
  for (std::size_t i = 0; i < n; i += lanes) {
    const V v = hn::Max(hn::Min(hn::LoadU(d, x + i), largest), hn::Neg(largest));
    hn::StoreU(hn::DemoteTo(dh, v), dh, out + i);
  }
}

// The same as bf16, of which nothing becomes infinite.
void ToBf16(const float* x, std::size_t n, std::uint16_t* out) {
  const D d;
  const V largest = hn::Set(d, 0x1.FEp127F);
  for (std::size_t i = 0; i < n; i += lanes) {
    const V v = hn::Max(hn::Min(hn::LoadU(d, x + i), largest), hn::Neg(largest));
    StoreAsBf16(d, v, out + i);
  }
}

// The least f16 that is not below `value`, which is positive.
std::uint16_t HalfAtLeast(float value) {
  const std::uint16_t nearest = float_to_half(value);
  return half_to_float(nearest) < value ? nearest + 1 : nearest;
}

// out[i] = round(x[i] / scale); returns scale, the least f16 with which nothing exceeds +-127. As
// in ToHalf nothing is beyond what f16 holds.
std::uint16_t ToInt8(const float* x, std::size_t n, std::int8_t* out) {
  const D d;
  const hn::Rebind<std::int8_t, D> di8;
  const V most = hn::Set(d, 127 * 65504.0F);
  const auto load = [&](std::size_t i) HWY_ATTR {
    return hn::Max(hn::Min(hn::LoadU(d, x + i), most), hn::Neg(most));
  };
  V largest = hn::Zero(d);
  for (std::size_t i = 0; i < n; i += lanes) largest = hn::Max(largest, hn::Abs(load(i)));
  const std::uint16_t scale = HalfAtLeast(hn::GetLane(hn::MaxOfLanes(d, largest)) / 127.0F);
  const float step = half_to_float(scale);
  const V inverse = hn::Set(d, step > 0 ? 1.0F / step : 0.0F);
  for (std::size_t i = 0; i < n; i += lanes) {
    const auto q = hn::NearestInt(hn::Mul(load(i), inverse));
    hn::StoreU(hn::DemoteTo(di8, q), di8, out + i);
  }
  return scale;
}

// u[i] = round((x[i] - minimum) / scale), 0 to 15, of one group. Scale and minimum are f16, and u
// is found with what they were rounded to. As in ToHalf nothing is beyond f16: no block holds a
// NaN. The same bits on every instruction set.
void ToInt4(const float* x, std::uint8_t* u, std::uint16_t& scale, std::uint16_t& minimum) {
  const D d;
  const hn::Rebind<std::uint8_t, D> du8;
  const V largest = hn::Set(d, 65504.0F);
  const auto load = [&](std::size_t i) HWY_ATTR {
    return hn::Max(hn::Min(hn::LoadU(d, x + i), largest), hn::Neg(largest));
  };
  V low = largest, high = hn::Neg(largest);
  for (std::size_t i = 0; i < group_columns; i += lanes) {
    low = hn::Min(low, load(i));
    high = hn::Max(high, load(i));
  }
  const float lowest = hn::GetLane(hn::MinOfLanes(d, low));
  minimum = float_to_half(lowest);
  scale = float_to_half((hn::GetLane(hn::MaxOfLanes(d, high)) - lowest) / 15.0F);
  const float step = half_to_float(scale);
  const V from = hn::Set(d, half_to_float(minimum));
  const V inverse = hn::Set(d, step > 0 ? 1.0F / step : 0.0F);
  for (std::size_t i = 0; i < group_columns; i += lanes) {
    const V steps = hn::Mul(hn::Sub(load(i), from), inverse);
    const V bounded = hn::Min(hn::Max(steps, hn::Zero(d)), hn::Set(d, 15.0F));
    hn::StoreU(hn::DemoteTo(du8, hn::NearestInt(bounded)), du8, u + i);
  }
}

// convert(x, whole vectors, out) of a zero-padded copy of x: head_dim need not be a multiple of the
// vector.
template <class T, class Convert>
HWY_INLINE auto ConvertRow(const float* x, std::size_t head_dim, T* out, Convert convert) {
  HWY_ALIGN float row[max_head_dim];
  const std::size_t padded = (head_dim + lanes - 1) / lanes * lanes;
  std::memcpy(row, x, head_dim * sizeof(float));
  std::memset(row + head_dim, 0, (padded - head_dim) * sizeof(float));
  return convert(row, padded, out);
}

// Converts one head's row and stores it as row `slot` of a block's V, or as column `slot` of its
// transposed K. Returns its scale.
template <class T, class Convert>
HWY_INLINE std::uint16_t StoreRow(const float* x, std::size_t head_dim, T* head, std::size_t slot,
                                  std::size_t block_tokens, bool transposed, Convert convert) {
  HWY_ALIGN T converted[max_head_dim];
  const std::uint16_t scale = ConvertRow(x, head_dim, converted, convert);
  if (transposed) {
    for (std::size_t i = 0; i < head_dim; ++i) head[i * block_tokens + slot] = converted[i];
  } else {
    std::memcpy(head + slot * head_dim, converted, head_dim * sizeof(T));
  }
  return scale;
}

// The same of bf16, in pairs (see kv_layout.h). The other half of a pair stays as it is.
HWY_INLINE void StoreBf16Row(const float* x, std::size_t head_dim, std::uint16_t* head,
                             std::size_t slot, std::size_t block_tokens, bool transposed) {
  HWY_ALIGN std::uint16_t converted[max_head_dim];
  ConvertRow(x, head_dim, converted, ToBf16);
  if (transposed) {
    for (std::size_t i = 0; i < head_dim; i += 2) {
      std::memcpy(head + i * block_tokens + 2 * slot, converted + i, 2 * sizeof(std::uint16_t));
    }
  } else {
    std::uint16_t* const at = head + slot / 2 * 2 * head_dim + slot % 2;
    for (std::size_t i = 0; i < head_dim; ++i) at[2 * i] = converted[i];
  }
}

// The same of int4, with the scales and minima of its groups (see kv_layout.h). Keys are rotated.
HWY_INLINE void StoreInt4Row(const float* x, const KvLayout& layout, std::byte* head,
                             std::byte* head_scales, std::size_t slot, bool transposed) {
  constexpr std::size_t half = group_columns / 2;
  const std::size_t block_tokens = layout.block_tokens;
  const std::size_t groups = layout.groups();
  auto* const scales = reinterpret_cast<std::uint16_t*>(head_scales) + slot;
  auto* const minima = scales + groups * block_tokens;
  auto* const bytes = reinterpret_cast<std::uint8_t*>(head);
  HWY_ALIGN float row[max_head_dim];
  std::memcpy(row, x, layout.head_dim * sizeof(float));
  if (transposed) Rotate(row, layout.head_dim);
  // The last group is filled up with one of its own: a zero would count for the minimum.
  std::fill(row + layout.head_dim, row + groups * group_columns, row[layout.head_dim - 1]);
  HWY_ALIGN std::uint8_t u[group_columns];
  for (std::size_t g = 0; g < groups; ++g) {
    ToInt4(row + g * group_columns, u, scales[g * block_tokens], minima[g * block_tokens]);
    if (transposed) {
      std::uint8_t* const at = bytes + g * half * block_tokens + slot;
      for (std::size_t i = 0; i < half; ++i) {
        at[i * block_tokens] = static_cast<std::uint8_t>(u[2 * i] | u[2 * i + 1] << 4);
      }
    } else {
      std::uint8_t* const at = bytes + slot * layout.row_bytes() + g * half;
      for (std::size_t i = 0; i < half; ++i) {
        at[i] = static_cast<std::uint8_t>(u[i] | u[i + half] << 4);
      }
    }
  }
}

void StoreToken(const KvLayout& layout, std::byte* block, std::uint32_t layer, std::size_t slot,
                const float* values, bool keys) {
  const std::size_t block_tokens = layout.block_tokens;
  const std::size_t head_dim = layout.head_dim;
  std::byte* head = block + (keys ? layout.k_offset(layer) : layout.v_offset(layer));
  std::byte* scales =
      block + (keys ? layout.k_scales_offset(layer) : layout.v_scales_offset(layer));
  for (std::size_t h = 0; h < layout.kv_heads; ++h) {
    const float* const row = values + h * head_dim;
    switch (layout.type) {
      case KvType::f16:
        StoreRow(row, head_dim, reinterpret_cast<hwy::float16_t*>(head), slot, block_tokens, keys,
                 [](const float* x, std::size_t n, hwy::float16_t* out) HWY_ATTR {
                   ToHalf(x, n, out);
                   return std::uint16_t{0};
                 });
        break;
      case KvType::bf16:
        StoreBf16Row(row, head_dim, reinterpret_cast<std::uint16_t*>(head), slot, block_tokens,
                     keys);
        break;
      case KvType::int8:
        reinterpret_cast<std::uint16_t*>(scales)[slot] =
            StoreRow(row, head_dim, reinterpret_cast<std::int8_t*>(head), slot, block_tokens, keys,
                     [](const float* x, std::size_t n, std::int8_t* out)
                         HWY_ATTR { return ToInt8(x, n, out); });
        break;
      case KvType::int4: StoreInt4Row(row, layout, head, scales, slot, keys); break;
    }
    head += layout.head_bytes();
    scales += layout.head_scales_bytes();
  }
}

void WriteKv(const KvLayout& layout, std::byte* pool_data, std::uint32_t layer,
             std::span<const BlockId> blocks, std::uint32_t start_position, std::uint32_t tokens,
             const float* k, const float* v, std::size_t row_stride) {
  for (std::uint32_t t = 0; t < tokens; ++t, k += row_stride, v += row_stride) {
    const std::uint32_t position = start_position + t;
    const std::size_t slot = position % layout.block_tokens;
    std::byte* const block =
        pool_data + blocks[layout.table_index(position)].get() * layout.block_bytes();
    StoreToken(layout, block, layer, slot, k, true);
    StoreToken(layout, block, layer, slot, v, false);
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
  assert(tokens == 0 || blocks.size() > layout.table_index(start_position + tokens - 1));
  PLIMSOLL_DISPATCH(WriteKv)
  (layout, pool_data, layer, blocks, start_position, tokens, k, v, row_stride);
}

}  // namespace plimsoll
#endif  // HWY_ONCE
