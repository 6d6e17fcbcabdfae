// The float32 path: a tile of weight rows is expanded, transposed so that a vector holds one column
// of several rows, and multiplied with all tokens. Each product of a row and a token is one sum
// over the columns in their order, whatever the tile, the tokens or the number of threads.
#include <algorithm>
#include <array>
#include <cassert>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/kernels/cpu/matmul_paths.h"
#include "engine/quantize/dequantize.h"
#include "hwy/cache_control.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/matmul_float.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);

// Sums in registers: row_vectors * max_tokens, 24 of AVX-512's 32 and 12 of AVX2's 16.
constexpr std::size_t row_vectors = lanes == 1 ? 8 : 2;
constexpr std::size_t max_tokens = lanes == 16 ? 12 : lanes == 8 ? 6 : 1;
constexpr std::size_t tile_rows = row_vectors * lanes;
// Columns at a time, a tile of them in the first-level cache together with the tokens it meets.
// Types that are expanded take a multiple of 256, the longest block of a weight type.
constexpr std::size_t tile_cols = 256;
constexpr std::size_t direct_tile_cols = 128;
constexpr std::size_t line_floats = 64 / sizeof(float);

// y[t, r] = (first ? 0 : y[t, r]) + w[r] . x[t] over n columns, w transposed: [n, tile_rows].
template <std::size_t Tokens>
void Multiply(const float* HWY_RESTRICT w, const float* HWY_RESTRICT x, std::size_t ldx,
              std::size_t n, bool first, float* HWY_RESTRICT y, std::size_t ldy) {
  const D d;
  V sum[Tokens][row_vectors];
  for (std::size_t t = 0; t < Tokens; ++t) {
    for (std::size_t r = 0; r < row_vectors; ++r) {
      sum[t][r] = first ? hn::Zero(d) : hn::LoadU(d, y + t * ldy + r * lanes);
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    V ws[row_vectors];
    for (std::size_t r = 0; r < row_vectors; ++r) {
      ws[r] = hn::LoadU(d, w + i * tile_rows + r * lanes);
    }
    for (std::size_t t = 0; t < Tokens; ++t) {
      const V xs = hn::Set(d, x[t * ldx + i]);
      for (std::size_t r = 0; r < row_vectors; ++r) sum[t][r] = hn::MulAdd(ws[r], xs, sum[t][r]);
    }
  }
  for (std::size_t t = 0; t < Tokens; ++t) {
    for (std::size_t r = 0; r < row_vectors; ++r) {
      hn::StoreU(sum[t][r], d, y + t * ldy + r * lanes);
    }
  }
}

using Kernel = void (*)(const float*, const float*, std::size_t, std::size_t, bool, float*,
                        std::size_t);
// kernels[n - 1] takes n tokens.
template <std::size_t... N>
constexpr std::array<Kernel, sizeof...(N)> Kernels(std::index_sequence<N...>) {
  return {&Multiply<N + 1>...};
}
constexpr auto kernels = Kernels(std::make_index_sequence<max_tokens>());

// Rows [begin, end) of the product.
void MultiplyRows(const Product& product, const float* x, std::size_t ldx, std::size_t tokens,
                  std::size_t begin, std::size_t end) {
  HWY_ALIGN float expanded[tile_rows * tile_cols];
  HWY_ALIGN float tile[tile_cols * tile_rows] = {};
  const TensorView& w = product.w->source;
  const std::size_t ldy = product.ldy;
  const std::size_t cols = w.cols();
  const TensorTypeInfo type = info(w.type);
  // float32 weights are used where they lie, if the file has them aligned.
  const bool direct =
      w.type == TensorType::f32 && reinterpret_cast<std::uintptr_t>(w.data) % sizeof(float) == 0;
  const std::size_t most_cols = direct ? direct_tile_cols : tile_cols;
  for (std::size_t row = begin; row < end; row += tile_rows) {
    const std::size_t rows = std::min(tile_rows, end - row);
    for (std::size_t col = 0; col < cols; col += most_cols) {
      const std::size_t n = std::min(most_cols, cols - col);
      if (direct) {
        const float* const at = reinterpret_cast<const float*>(w.data) + row * cols + col;
        Transpose(at, cols, rows, n, tile, tile_rows);
        // What comes next is fetched while this is multiplied: the processor's own prefetching does
        // not follow so many rows, and stops at a page's end.
        const float* const next = col + n < cols ? at + n : at - col + tile_rows * cols;
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t i = 0; i < n; i += line_floats) hwy::Prefetch(next + r * cols + i);
        }
      } else {
        for (std::size_t r = 0; r < rows; ++r) {
          const std::size_t block = ((row + r) * cols + col) / type.block_elements;
          dequantize(w.type, w.data + block * type.block_bytes, expanded + r * tile_cols, n);
        }
        Transpose(expanded, tile_cols, rows, n, tile, tile_rows);
      }
      for (std::size_t t = 0; t < tokens; t += max_tokens) {
        const std::size_t step = std::min(max_tokens, tokens - t);
        const Kernel kernel = kernels[step - 1];
        float* const out = product.y + t * ldy + row;
        if (rows == tile_rows) {
          kernel(tile, x + t * ldx + col, ldx, n, col == 0, out, ldy);
          continue;
        }
        // The last rows: a whole tile is computed beside y.
        float beside[max_tokens * tile_rows] = {};
        for (std::size_t i = 0; i < step && col > 0; ++i) {
          std::memcpy(beside + i * tile_rows, out + i * ldy, rows * sizeof(float));
        }
        kernel(tile, x + t * ldx + col, ldx, n, col == 0, beside, tile_rows);
        for (std::size_t i = 0; i < step; ++i) {
          std::memcpy(out + i * ldy, beside + i * tile_rows, rows * sizeof(float));
        }
      }
    }
    for (std::size_t t = 0; t < tokens && product.bias != nullptr; ++t) {
      float* const out = product.y + t * ldy + row;
      for (std::size_t r = 0; r < rows; ++r) out[r] += product.bias[row + r];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(MultiplyRows);

void matmul_float(const Product& product, const float* x, std::size_t ldx, std::size_t tokens,
                  ThreadPool& pool) {
  if (tokens == 0) return;
  const TensorView& w = product.w->source;
  assert(w.cols() % info(w.type).block_elements == 0);
  const auto multiply = PLIMSOLL_DISPATCH(MultiplyRows);
  pool.parallel_for(w.rows(), 32, [&](std::size_t begin, std::size_t end, int) {
    multiply(product, x, ldx, tokens, begin, end);
  });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
