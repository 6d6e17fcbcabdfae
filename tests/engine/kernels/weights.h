// Weight matrices for the kernel tests: random blocks of any type, and the packed form read back.
#pragma once

#include <cmath>
#include <cstring>

#include "engine/kernels/cpu/packed.h"
#include "engine/quantize/dequantize.h"
#include "tests/engine/kernels/testing.h"

namespace plimsoll {

inline const TensorType weight_types[] = {TensorType::f32,  TensorType::f16,  TensorType::bf16,
                                          TensorType::q4_0, TensorType::q4_1, TensorType::q5_0,
                                          TensorType::q5_1, TensorType::q8_0, TensorType::q4_k,
                                          TensorType::q5_k, TensorType::q6_k};

// A matrix of the type with quants of every value, and scales about `magnitude`.
struct Weights {
  std::vector<std::byte> storage;
  TensorView view;

  Weights(TensorType type, std::uint64_t rows, std::uint64_t cols, std::uint32_t seed,
          float magnitude = 0.01F) {
    const TensorTypeInfo t = info(type);
    view.name = "w";
    view.type = type;
    view.shape = {rows, cols};
    view.rank = 2;
    view.bytes = rows * cols / t.block_elements * t.block_bytes;
    storage.resize(view.bytes);
    view.data = storage.data();
    std::mt19937 generator(seed);
    for (std::byte& b : storage) b = static_cast<std::byte>(generator());
    std::normal_distribution<float> normal(0.0F, magnitude);
    const auto put_half = [&](std::size_t at) {
      const std::uint16_t half = float_to_half(normal(generator));
      std::memcpy(storage.data() + at, &half, 2);
    };
    for (std::size_t at = 0; at < view.bytes; at += t.block_bytes) {
      const float value = normal(generator);
      switch (type) {
        case TensorType::f32: std::memcpy(storage.data() + at, &value, 4); break;
        case TensorType::bf16:
          std::memcpy(storage.data() + at, reinterpret_cast<const char*>(&value) + 2, 2);
          break;
        case TensorType::q4_1:
        case TensorType::q5_1:
        case TensorType::q4_k:
        case TensorType::q5_k: put_half(at + 2); [[fallthrough]];
        default: put_half(type == TensorType::q6_k ? at + 208 : at);
      }
    }
  }

  std::vector<float> values() const {
    std::vector<float> out(view.elements());
    for (std::size_t r = 0; r < view.rows(); ++r) dequantize_row(view, r, &out[r * view.cols()]);
    return out;
  }
};

struct Packed {
  std::vector<std::byte> storage;
  PackedMatrix matrix;

  explicit Packed(const TensorView& view, PackedForm floats = PackedForm::u8) {
    matrix.form = packed_form(view, floats);
    matrix.rows = static_cast<std::uint32_t>(view.rows());
    matrix.cols = static_cast<std::uint32_t>(view.cols());
    storage.resize(matrix.bytes());
    pack_matrix(view, matrix.form, storage.data());
    matrix.data = storage.data();
  }
};

// What packed.h says of the bytes: the min of row and block, which is 0 where there are none.
inline double packed_min(const PackedMatrix& m, std::size_t row, std::size_t block) {
  if (!m.quantized() || is_centred(m.form)) return 0;
  const std::byte* const panel = m.data + row / 16 * m.panel_bytes();
  const std::size_t r = row % 16;
  float factor;
  std::memcpy(&factor, panel + r * 4, 4);
  std::int16_t min;
  std::memcpy(&min, panel + 64 + block / 2 * 64 + (r * 2 + block % 2) * 2, 2);
  return static_cast<double>(factor) * min;
}

// w[row, col].
inline double packed_value(const PackedMatrix& m, std::size_t row, std::size_t col) {
  const std::byte* const panel = m.data + row / 16 * m.panel_bytes();
  const std::size_t r = row % 16, c = col % 32;
  if (m.form == PackedForm::bf16) {
    float value;
    dequantize(TensorType::bf16, panel + ((col / 2 * 16 + r) * 2 + col % 2) * 2, &value, 1);
    return value;
  }
  float factor;
  std::memcpy(&factor, panel + r * 4, 4);
  const std::size_t bits = static_cast<std::size_t>(m.form) & 15;
  const bool centred = static_cast<std::size_t>(m.form) > 15;
  const std::size_t block = col / 32, quant_bytes = 64 * bits;
  const std::size_t mins_bytes = centred ? 0 : (m.cols / 32 + 1) / 2 * 64;
  const std::byte* const header = panel + 64 + mins_bytes + block / 2 * (64 + 2 * quant_bytes);
  const std::byte* const quants = header + 64 + block % 2 * quant_bytes;
  std::uint16_t half;
  std::memcpy(&half, header + (block % 2 * 16 + r) * 2, 2);
  const double scale = static_cast<double>(factor) * half_to_float(half);
  const std::size_t place = r * 4 + c % 4;
  unsigned u;
  if (bits == 8) {
    u = std::to_integer<unsigned>(quants[c / 4 * 64 + place]);
  } else {
    const unsigned pair = std::to_integer<unsigned>(quants[c % 16 / 4 * 64 + place]);
    u = c < 16 ? pair & 15 : pair >> 4;
    if (bits == 5) u |= (std::to_integer<unsigned>(quants[256 + place]) >> (c / 4) & 1) << 4;
  }
  if (centred) return scale * (static_cast<int>(u) - (1 << (bits - 1)));
  return scale * u + packed_min(m, row, block);
}

}  // namespace plimsoll
