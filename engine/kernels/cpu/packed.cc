#include "engine/kernels/cpu/packed.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

constexpr std::size_t panel_rows = PackedMatrix::panel_rows;
constexpr std::size_t block_cols = PackedMatrix::block_cols;
constexpr std::size_t header_bytes = PackedMatrix::header_bytes;

// 32 columns of one row: w = scale * u + min. Of centred types min is -2^(bits - 1) * scale.
struct Block {
  float scale = 0;
  float min = 0;
  std::uint8_t u[block_cols] = {};
};

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
float load_half(const std::byte* p) { return half_to_float(load<std::uint16_t>(p)); }
std::uint8_t load_byte(const std::byte* p) { return std::to_integer<std::uint8_t>(*p); }

// Q4_0 {d, qs}, Q4_1 {d, m, qs}: columns 0..15 in the low nibbles.
Block q4(const std::byte* p, bool has_min) {
  Block block;
  block.scale = load_half(p);
  block.min = has_min ? load_half(p + 2) : -8 * block.scale;
  const std::byte* const qs = p + (has_min ? 4 : 2);
  for (std::size_t i = 0; i < 16; ++i) {
    block.u[i] = load_byte(qs + i) & 0x0F;
    block.u[16 + i] = load_byte(qs + i) >> 4;
  }
  return block;
}

// Q5_0 {d, qh, qs}, Q5_1 {d, m, qh, qs}: as Q4, the fifth bit of column i in bit i of qh.
Block q5(const std::byte* p, bool has_min) {
  Block block;
  block.scale = load_half(p);
  block.min = has_min ? load_half(p + 2) : -16 * block.scale;
  const std::byte* const high = p + (has_min ? 4 : 2);
  const auto bits = load<std::uint32_t>(high);
  for (std::size_t i = 0; i < 16; ++i) {
    const std::uint8_t pair = load_byte(high + 4 + i);
    block.u[i] = (pair & 0x0F) | ((bits >> i & 1) << 4);
    block.u[16 + i] = (pair >> 4) | ((bits >> (16 + i) & 1) << 4);
  }
  return block;
}

// Q8_0 {d, qs}: u = q + 128.
Block q8(const std::byte* p) {
  Block block;
  block.scale = load_half(p);
  block.min = -128 * block.scale;
  for (std::size_t i = 0; i < block_cols; ++i) block.u[i] = load_byte(p + 2 + i) ^ 0x80;
  return block;
}

// Q4_K {d, dmin, scales[12], qs[128]} and Q5_K {d, dmin, scales[12], qh[32], qs[128]}: block `sub`
// of the 8 in 256 columns. Its 6-bit scale and min are spread over `scales`.
Block k_quant(const std::byte* p, std::size_t sub, bool five_bits) {
  const auto scales = [&](std::size_t i) { return load_byte(p + 4 + i); };
  std::uint8_t scale, min;
  if (sub < 4) {
    scale = scales(sub) & 63;
    min = scales(sub + 4) & 63;
  } else {
    scale = (scales(sub + 4) & 0x0F) | (scales(sub - 4) >> 6 << 4);
    min = (scales(sub + 4) >> 4) | (scales(sub) >> 6 << 4);
  }
  Block block;
  block.scale = load_half(p) * scale;
  block.min = -load_half(p + 2) * min;
  const std::byte* const qs = p + (five_bits ? 48 : 16) + sub / 2 * 32;
  for (std::size_t i = 0; i < block_cols; ++i) {
    block.u[i] = load_byte(qs + i) >> (sub % 2 * 4) & 0x0F;
    if (five_bits) block.u[i] |= (load_byte(p + 16 + i) >> sub & 1) << 4;
  }
  return block;
}

// The least and greatest value become 0 and 255.
Block quantize(const float* w) {
  const auto [least, greatest] = std::minmax_element(w, w + block_cols);
  Block block;
  block.min = *least;
  block.scale = (*greatest - *least) / 255.0F;
  if (!(block.scale > 0)) return block;  // all equal
  for (std::size_t i = 0; i < block_cols; ++i) {
    const float u = std::nearbyint((w[i] - block.min) / block.scale);
    block.u[i] = static_cast<std::uint8_t>(std::clamp(u, 0.0F, 255.0F));
  }
  return block;
}

std::vector<Block> blocks_of_row(const TensorView& source, std::size_t row) {
  std::vector<Block> blocks(source.cols() / block_cols);
  const TensorTypeInfo type = info(source.type);
  const std::byte* const data = source.data + row * source.row_bytes();
  const std::size_t subs = std::max<std::size_t>(1, type.block_elements / block_cols);
  std::vector<float> values;  // of types without blocks of 32
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const std::byte* const p = data + b / subs * type.block_bytes;
    switch (source.type) {
      case TensorType::q4_0: blocks[b] = q4(p, false); break;
      case TensorType::q4_1: blocks[b] = q4(p, true); break;
      case TensorType::q5_0: blocks[b] = q5(p, false); break;
      case TensorType::q5_1: blocks[b] = q5(p, true); break;
      case TensorType::q8_0: blocks[b] = q8(p); break;
      case TensorType::q4_k: blocks[b] = k_quant(p, b % subs, false); break;
      case TensorType::q5_k: blocks[b] = k_quant(p, b % subs, true); break;
      case TensorType::q6_k:
      case TensorType::f32:
      case TensorType::f16:
      case TensorType::bf16:
        if (values.empty()) {
          values.resize(source.cols());
          dequantize_row(source, row, values.data());
        }
        blocks[b] = quantize(values.data() + b * block_cols);
        break;
      case TensorType::i64: assert(false && "i64 is no weight type"); break;
    }
  }
  return blocks;
}

// The exponent e such that the greatest scale or min of the row, divided by 2^e, is in
// [2^12, 2^13): f16 then holds scales down to 2^-26 of it at full precision, and mins are integers
// of few enough bits for their products with sums of activations.
int row_exponent(const std::vector<Block>& blocks) {
  float greatest = 0;
  for (const Block& block : blocks) {
    greatest = std::max({greatest, std::abs(block.scale), std::abs(block.min)});
  }
  if (!(greatest > 0) || std::isinf(greatest)) return 0;
  // The factor itself has to be a normal float.
  return std::max(std::ilogb(greatest) - 12, std::numeric_limits<float>::min_exponent);
}

void pack_bf16_panel(const TensorView& source, std::size_t panel, std::byte* dst) {
  const std::size_t rows = std::min<std::size_t>(panel_rows, source.rows() - panel * panel_rows);
  std::vector<float> values(source.cols());
  for (std::size_t r = 0; r < rows; ++r) {
    dequantize_row(source, panel * panel_rows + r, values.data());
    for (std::size_t c = 0; c < values.size(); ++c) {
      const std::uint16_t rounded = float_to_bf16(values[c]);
      std::memcpy(dst + ((c / 2 * panel_rows + r) * 2 + c % 2) * sizeof(rounded), &rounded,
                  sizeof(rounded));
    }
  }
}

// Row r's quants among the block's, which start as zeros.
void store_quants(const Block& block, PackedForm form, std::size_t r, std::byte* quants) {
  for (std::size_t c = 0; c < block_cols; ++c) {
    const std::size_t group = c / 4, in_group = r * 4 + c % 4;
    if (bits_of(form) == 8) {
      quants[group * 64 + in_group] = std::byte{block.u[c]};
      continue;
    }
    const std::uint8_t nibble = block.u[c] & 0x0F;
    quants[group % 4 * 64 + in_group] |= std::byte(group < 4 ? nibble : nibble << 4);
    if (bits_of(form) == 5) quants[256 + in_group] |= std::byte(block.u[c] >> 4 << group);
  }
}

}  // namespace

PackedForm packed_form(const TensorView& source, PackedForm floats) {
  constexpr std::uint64_t limit = std::numeric_limits<std::uint32_t>::max();
  if (source.rank == 0 || source.rows() == 0 || source.cols() == 0 ||
      source.cols() % block_cols != 0 || source.rows() > limit ||
      source.cols() > PackedMatrix::most_cols) {
    return PackedForm::none;
  }
  switch (source.type) {
    case TensorType::q4_0: return PackedForm::c4;
    case TensorType::q5_0: return PackedForm::c5;
    case TensorType::q8_0: return PackedForm::c8;
    case TensorType::q4_1:
    case TensorType::q4_k: return PackedForm::u4;
    case TensorType::q5_1:
    case TensorType::q5_k: return PackedForm::u5;
    case TensorType::q6_k: return PackedForm::u8;
    case TensorType::f32:
    case TensorType::f16:
    case TensorType::bf16: return floats;
    case TensorType::i64: return PackedForm::none;
  }
  return PackedForm::none;
}

void pack_panel(const TensorView& source, PackedForm form, std::size_t panel, std::byte* dst) {
  const PackedMatrix shape{form, static_cast<std::uint32_t>(source.rows()),
                           static_cast<std::uint32_t>(source.cols()), nullptr};
  std::memset(dst, 0, shape.panel_bytes());
  if (form == PackedForm::bf16) return pack_bf16_panel(source, panel, dst);
  const std::size_t rows = std::min<std::size_t>(panel_rows, source.rows() - panel * panel_rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::vector<Block> blocks = blocks_of_row(source, panel * panel_rows + r);
    const int exponent = row_exponent(blocks);
    const float factor = std::ldexp(1.0F, exponent);
    std::memcpy(dst + r * sizeof(factor), &factor, sizeof(factor));
    std::byte* const mins = dst + PackedMatrix::factors_bytes;
    std::byte* out = mins + (is_centred(form) ? 0 : shape.block_pairs() * header_bytes);
    std::byte* header = nullptr;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      const std::size_t in_pair = b % 2;
      if (in_pair == 0) {
        header = out;
        out += header_bytes;
      }
      // An integer cannot tell that the min is no number: the scale does.
      const bool sound = is_centred(form) || std::isfinite(blocks[b].min);
      const std::uint16_t scale =
          float_to_half(sound ? std::ldexp(blocks[b].scale, -exponent) : NAN);
      std::memcpy(header + (in_pair * panel_rows + r) * sizeof(scale), &scale, sizeof(scale));
      if (!is_centred(form) && sound) {
        constexpr float most = PackedMatrix::most_min;
        const float nearest = std::nearbyint(std::ldexp(blocks[b].min, -exponent));
        const auto min = static_cast<std::int16_t>(std::clamp(nearest, -most, most));
        std::memcpy(mins + b / 2 * header_bytes + (r * 2 + in_pair) * sizeof(min), &min,
                    sizeof(min));
      }
      store_quants(blocks[b], form, r, out);
      out += quant_bytes(form);
    }
  }
}

void pack_matrix(const TensorView& source, PackedForm form, std::byte* dst) {
  const PackedMatrix shape{form, static_cast<std::uint32_t>(source.rows()),
                           static_cast<std::uint32_t>(source.cols()), nullptr};
  for (std::size_t p = 0; p < shape.panels(); ++p) {
    pack_panel(source, form, p, dst + p * shape.panel_bytes());
  }
}

}  // namespace plimsoll
