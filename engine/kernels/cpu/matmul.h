// Matrix products with the model's weights: y[tokens, rows] = x[tokens, cols] . W[rows, cols]^T.
//
// Three paths. `float32` expands the weights row by row, exactly as the file defines them: the
// reference. `bf16` rounds activations and packed weights to bfloat16: the fast path for float
// files. `int8` multiplies 8-bit activations (one scale per 32 columns) with packed 4- or 8-bit
// weights: the fast path for quantized files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "engine/formats/tensor.h"
#include "engine/kernels/cpu/packed.h"
#include "engine/kernels/cpu/thread_pool.h"

namespace plimsoll {

// One weight matrix as the kernels see it. Both views point into mapped files.
struct WeightMatrix {
  TensorView source;    // [rows, cols] in the model file
  PackedMatrix packed;  // empty: the float32 path is taken
  std::size_t rows() const { return source.rows(); }
  std::size_t cols() const { return source.cols(); }
};

// Activations of one step, quantized once and used for several products with the same tokens.
// Buffers belong to the caller. Tokens go in tiles of 16 (the last may be shorter), so that what a
// kernel reads next lies next: [tiles][cols / 32][tokens of the tile][32] for q, the same without
// the last dimension for scale, start and offset.
struct QuantizedActivations {
  std::int8_t* q = nullptr;
  float* scale = nullptr;  // x ~ scale * q, q in -127..127
  // -16 times the sum of q over the block: what 5-bit weights that are centred start their dots
  // from. Times 8 or halved, it serves 8 and 4 bits.
  std::int32_t* start = nullptr;
  // The sum of what stands for a block's numbers, as an integer times the token's sum_scale, for
  // two blocks side by side: [tiles][cols / 64, rounded up][tokens of the tile][2]. A token's
  // magnitudes sum to most_sums at most, so that no sum of products with mins leaves 32 bits.
  std::int16_t* sums = nullptr;
  float* sum_scale = nullptr;  // [tokens]
  // With it x ~ scale * q + offset: half the error where a block's numbers lie to one side of zero.
  // Products take it with weights of the form u8 alone. Null: x ~ scale * q.
  float* offset = nullptr;
  static constexpr std::size_t block = 32;
  static constexpr std::size_t tile_tokens = 16;
  static constexpr std::int32_t most_sums =
      std::numeric_limits<std::int32_t>::max() / PackedMatrix::most_min;
  static std::size_t bytes(std::size_t tokens, std::size_t cols, bool with_offset = false) {
    const std::size_t of_block =
        block + (with_offset ? 2 : 1) * sizeof(float) + sizeof(std::int32_t);
    const std::size_t of_pair = 2 * sizeof(std::int16_t);
    const std::size_t blocks = cols / block;
    return tokens * (blocks * of_block + (blocks + 1) / 2 * of_pair + sizeof(float)) + 384;
  }
  // Lays the arrays out in `buffer` (64-byte aligned, bytes(tokens, cols, with_offset) long).
  static QuantizedActivations in(std::byte* buffer, std::size_t tokens, std::size_t cols,
                                 bool with_offset = false);
};

// x [tokens, cols] row-major with stride ldx; cols is a multiple of 32, 65536 at most. NaN and
// infinity in x are the caller's bug: the block's scale and the token's sum_scale become NaN and so
// do the products.
void quantize_activations(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                          const QuantizedActivations& out, ThreadPool& pool);

// The same of tokens [begin, end) alone, on the calling thread, for whoever makes x in the same
// pass. `rest`, unless null, is given what the 8 bits lost: x less their values, quantized in turn.
void quantize_tokens(const float* x, std::size_t ldx, std::size_t tokens, std::size_t cols,
                     std::size_t begin, std::size_t end, const QuantizedActivations& out,
                     const QuantizedActivations* rest);

// One of several products with the same activations: y = x W^T + bias, [tokens, w.rows()] with
// stride ldy, overwritten.
struct Product {
  const WeightMatrix* w = nullptr;
  float* y = nullptr;
  std::size_t ldy = 0;
  // With it y = (x + rest) W^T + bias: what quantize_tokens() says was lost of x.
  // Quantized weights only.
  const QuantizedActivations* rest = nullptr;
  const float* bias = nullptr;  // [w.rows()]; null: none
};

// x_q, quantized with the same `tokens`, is needed where weights are quantized, x where they are
// not.
// A token's products do not depend on the other tokens, to the last bit.
void matmul(std::span<const Product> products, const float* x, std::size_t ldx,
            const QuantizedActivations& x_q, std::size_t tokens, ThreadPool& pool);

}  // namespace plimsoll
