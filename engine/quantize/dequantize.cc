#include "engine/quantize/dequantize.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

namespace plimsoll {

namespace {

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float half_at(const std::byte* p) { return half_to_float(load<std::uint16_t>(p)); }

// Block layouts are given as the GGUF names them: d is the scale, m (or dmin) the offset, qs the
// low bits, qh the high ones.

// q4_0: d f16, qs[16]; value j in the low nibble of qs[j], value j+16 in the high one.
void expand_q4_0(const std::byte* block, float* y) {
  const float d = half_at(block);
  const auto* qs = reinterpret_cast<const std::uint8_t*>(block + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>((qs[j] & 15) - 8) * d;
    y[j + 16] = static_cast<float>((qs[j] >> 4) - 8) * d;
  }
}

// q4_1: d f16, m f16, qs[16]
void expand_q4_1(const std::byte* block, float* y) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const auto* qs = reinterpret_cast<const std::uint8_t*>(block + 4);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(qs[j] & 15) * d + m;
    y[j + 16] = static_cast<float>(qs[j] >> 4) * d + m;
  }
}

// q5_0: d f16, qh u32, qs[16]; bit j of qh is the fifth bit of value j.
void expand_q5_0(const std::byte* block, float* y) {
  const float d = half_at(block);
  const auto qh = load<std::uint32_t>(block + 2);
  const auto* qs = reinterpret_cast<const std::uint8_t*>(block + 6);
  for (int j = 0; j < 16; ++j) {
    const int low = (qs[j] & 15) | static_cast<int>((qh >> j & 1) << 4);
    const int high = (qs[j] >> 4) | static_cast<int>((qh >> (j + 16) & 1) << 4);
    y[j] = static_cast<float>(low - 16) * d;
    y[j + 16] = static_cast<float>(high - 16) * d;
  }
}

// q5_1: d f16, m f16, qh u32, qs[16]
void expand_q5_1(const std::byte* block, float* y) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const auto qh = load<std::uint32_t>(block + 4);
  const auto* qs = reinterpret_cast<const std::uint8_t*>(block + 8);
  for (int j = 0; j < 16; ++j) {
    const int low = (qs[j] & 15) | static_cast<int>((qh >> j & 1) << 4);
    const int high = (qs[j] >> 4) | static_cast<int>((qh >> (j + 16) & 1) << 4);
    y[j] = static_cast<float>(low) * d + m;
    y[j + 16] = static_cast<float>(high) * d + m;
  }
}

// q8_0: d f16, qs[32] signed
void expand_q8_0(const std::byte* block, float* y) {
  const float d = half_at(block);
  const auto* qs = reinterpret_cast<const std::int8_t*>(block + 2);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(qs[j]) * d;
}

// The 6-bit scale and offset of sub-block j of q4_k and q5_k, packed into 12 bytes.
struct ScaleMin {
  float scale;
  float min;
};
ScaleMin scale_min(const std::uint8_t* packed, int j) {
  if (j < 4) {
    return {static_cast<float>(packed[j] & 63), static_cast<float>(packed[j + 4] & 63)};
  }
  return {static_cast<float>((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4),
          static_cast<float>((packed[j + 4] >> 4) | (packed[j] >> 6) << 4)};
}

// q4_k: d f16, dmin f16, scales[12], qs[128]; 8 sub-blocks of 32, two share 32 bytes of qs.
void expand_q4_k(const std::byte* block, float* y) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const auto* scales = reinterpret_cast<const std::uint8_t*>(block + 4);
  const auto* qs = scales + 12;
  for (int pair = 0; pair < 4; ++pair, qs += 32, y += 64) {
    const ScaleMin low = scale_min(scales, 2 * pair);
    const ScaleMin high = scale_min(scales, 2 * pair + 1);
    for (int l = 0; l < 32; ++l) {
      y[l] = d * low.scale * static_cast<float>(qs[l] & 15) - dmin * low.min;
      y[l + 32] = d * high.scale * static_cast<float>(qs[l] >> 4) - dmin * high.min;
    }
  }
}

// q5_k: d f16, dmin f16, scales[12], qh[32], qs[128]; bit s of qh[l] is the fifth bit of value l
// of sub-block s.
void expand_q5_k(const std::byte* block, float* y) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const auto* scales = reinterpret_cast<const std::uint8_t*>(block + 4);
  const auto* qh = scales + 12;
  const auto* qs = qh + 32;
  for (int pair = 0; pair < 4; ++pair, qs += 32, y += 64) {
    const ScaleMin low = scale_min(scales, 2 * pair);
    const ScaleMin high = scale_min(scales, 2 * pair + 1);
    for (int l = 0; l < 32; ++l) {
      const int q_low = (qs[l] & 15) | (qh[l] >> (2 * pair) & 1) << 4;
      const int q_high = (qs[l] >> 4) | (qh[l] >> (2 * pair + 1) & 1) << 4;
      y[l] = d * low.scale * static_cast<float>(q_low) - dmin * low.min;
      y[l + 32] = d * high.scale * static_cast<float>(q_high) - dmin * high.min;
    }
  }
}

// q6_k: ql[128], qh[64], scales[16] signed, d f16; 16 sub-blocks of 16.
void expand_q6_k(const std::byte* block, float* y) {
  const auto* ql = reinterpret_cast<const std::uint8_t*>(block);
  const auto* qh = ql + 128;
  const auto* scales = reinterpret_cast<const std::int8_t*>(qh + 64);
  const float d = half_at(block + 208);
  for (int half = 0; half < 2; ++half, ql += 64, qh += 32, scales += 8, y += 128) {
    for (int l = 0; l < 32; ++l) {
      const int q[4] = {(ql[l] & 15) | (qh[l] & 3) << 4, (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4,
                        (ql[l] >> 4) | (qh[l] >> 4 & 3) << 4,
                        (ql[l + 32] >> 4) | (qh[l] >> 6 & 3) << 4};
      for (int k = 0; k < 4; ++k) {
        const auto scale = static_cast<float>(scales[l / 16 + 2 * k]);
        y[l + 32 * k] = d * scale * static_cast<float>(q[k] - 32);
      }
    }
  }
}

template <class Expand>
void expand_blocks(TensorType type, const std::byte* src, float* dst, std::size_t elements,
                   Expand expand) {
  const TensorTypeInfo layout = info(type);
  assert(elements % layout.block_elements == 0);
  for (std::size_t i = 0; i < elements; i += layout.block_elements, src += layout.block_bytes) {
    expand(src, dst + i);
  }
}

}  // namespace

void dequantize(TensorType type, const std::byte* src, float* dst, std::size_t elements) {
  const auto each = [&](auto expand) { expand_blocks(type, src, dst, elements, expand); };
  switch (type) {
    case TensorType::f32: std::memcpy(dst, src, elements * sizeof(float)); return;
    case TensorType::f16: each([](const std::byte* p, float* y) { *y = half_at(p); }); return;
    case TensorType::bf16:
      each([](const std::byte* p, float* y) {
        *y = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(p)) << 16);
      });
      return;
    case TensorType::q4_0: each(expand_q4_0); return;
    case TensorType::q4_1: each(expand_q4_1); return;
    case TensorType::q5_0: each(expand_q5_0); return;
    case TensorType::q5_1: each(expand_q5_1); return;
    case TensorType::q8_0: each(expand_q8_0); return;
    case TensorType::q4_k: each(expand_q4_k); return;
    case TensorType::q5_k: each(expand_q5_k); return;
    case TensorType::q6_k: each(expand_q6_k); return;
    case TensorType::i64: break;
  }
  assert(false && "i64 tensors are not computed with");
}

void dequantize_row(const TensorView& view, std::uint64_t row, float* dst) {
  assert(row < view.rows());
  dequantize(view.type, view.data + row * view.row_bytes(), dst, view.cols());
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t exponent = half >> 10 & 31;
  const std::uint32_t mantissa = half & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;   // NaN
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // rounds to infinity
  if (magnitude < 0x38800000) {  // subnormal: adding 0.5 leaves round(value * 2^24) in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000));
  }
  const std::uint32_t odd = magnitude >> 13 & 1;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + odd) >> 13));
}

std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace plimsoll
