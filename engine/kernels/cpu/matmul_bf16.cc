// The bfloat16 path: panels of 16 weight rows against up to 12 tokens at a time, with activations
// rounded to bfloat16 and sums in float32.
//
// For each row and token, in this order and on every instruction set, from the bias on:
//   sum = w[i + 1] * x[i + 1] + sum; sum = w[i] * x[i] + sum        i = 0, 2, 4...
// which is what VDPBF16PS does with a pair. AVX-512 and AVX2 fuse each product with its sum and so
// agree to the last bit, but for denormals, which the instruction takes as zero; the portable twin
// rounds twice.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/kernels/cpu/matmul_paths.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/matmul_bf16.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/bf16-inl.h"

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#ifndef PLIMSOLL_MATMUL_BF16_ONCE
#define PLIMSOLL_MATMUL_BF16_ONCE
namespace plimsoll {
namespace {

constexpr std::size_t panel_rows = PackedMatrix::panel_rows;
// Tokens that are rounded at a time, for all rows; and numbers of them, so that of many tokens a
// tile and two panels stay in the first-level cache, and of few the weights are read as they lie.
constexpr std::size_t group_tokens = 48;
constexpr std::size_t group_numbers = group_tokens * 256;

// What a kernel multiplies: `pairs` pairs of columns of one or two panels and some tokens.
struct Tile {
  const std::byte* w;        // [pairs][16 rows][2] bfloat16; the second panel w_stride behind
  std::size_t w_stride = 0;  // bytes
  const void* x;             // [tokens][x_stride pairs]
  std::size_t x_stride = 0;
  std::size_t pairs = 0;
  float* y;  // [tokens][ldy], added to; 16 rows of each panel
  std::size_t ldy = 0;
};
using Kernel = void (*)(const Tile&);

}  // namespace
}  // namespace plimsoll
#endif

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<D>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);

// Sums in registers: 2 vectors (of the portable twin's, 16) times max_tokens.
constexpr std::size_t most_panels = lanes == 16 ? 2 : 1;
constexpr std::size_t max_tokens = lanes == 16 ? 12 : lanes == 8 ? 4 : 1;

// How each kernel wants a token: as bfloat16 or, rounded to it, as float32.
void RoundToFloats(const float* x, std::size_t n, void* out) {
  const D d;
  for (std::size_t i = 0; i < n; i += lanes) {
    hn::StoreU(RoundedToBf16(d, hn::LoadU(d, x + i)), d, static_cast<float*>(out) + i);
  }
}

template <std::size_t Panels, std::size_t Tokens>
void Multiply(const Tile& tile) {
  const D d;
  const DU du;
  constexpr std::size_t of_panel = panel_rows / lanes;
  constexpr std::size_t vectors = Panels * of_panel;
  const auto* const x = static_cast<const float*>(tile.x);
  const auto row = [](std::size_t v) { return v / of_panel * panel_rows + v % of_panel * lanes; };
  V sum[Tokens][vectors];
  for (std::size_t t = 0; t < Tokens; ++t) {
    float* const y = tile.y + t * tile.ldy;
    for (std::size_t v = 0; v < vectors; ++v) sum[t][v] = hn::LoadU(d, y + row(v));
  }
  for (std::size_t i = 0; i < tile.pairs; ++i) {
    V even[vectors], odd[vectors];
    for (std::size_t v = 0; v < vectors; ++v) {
      const std::byte* const at = tile.w + v / of_panel * tile.w_stride +
                                  (i * panel_rows + v % of_panel * lanes) * sizeof(std::uint32_t);
      const auto pair = hn::LoadU(du, reinterpret_cast<const std::uint32_t*>(at));
      even[v] = hn::BitCast(d, hn::ShiftLeft<16>(pair));
      odd[v] = hn::BitCast(d, hn::And(pair, hn::Set(du, 0xFFFF0000)));
    }
    for (std::size_t t = 0; t < Tokens; ++t) {
      const float* const two = x + (t * tile.x_stride + i) * 2;
      const V x0 = hn::Set(d, two[0]), x1 = hn::Set(d, two[1]);
      for (std::size_t v = 0; v < vectors; ++v) sum[t][v] = hn::MulAdd(odd[v], x1, sum[t][v]);
      for (std::size_t v = 0; v < vectors; ++v) sum[t][v] = hn::MulAdd(even[v], x0, sum[t][v]);
    }
  }
  for (std::size_t t = 0; t < Tokens; ++t) {
    float* const y = tile.y + t * tile.ldy;
    for (std::size_t v = 0; v < vectors; ++v) hn::StoreU(sum[t][v], d, y + row(v));
  }
}

#if HWY_TARGET == HWY_AVX3

// Highway's AVX-512 target knows nothing of this instruction; active_isa() says whether it is
// there.
#define PLIMSOLL_KERNEL __attribute__((target("avx512bf16"), noinline))

void RoundToBf16(const float* x, std::size_t n, void* out) {
  const D d;
  for (std::size_t i = 0; i < n; i += lanes) {
    StoreAsBf16(d, hn::LoadU(d, x + i), static_cast<std::uint16_t*>(out) + i);
  }
}

// The processor's own prefetching stops at a page's end.
constexpr std::size_t prefetch_bytes = 4096;

template <std::size_t Panels, std::size_t Tokens>
PLIMSOLL_KERNEL void MultiplyPairs(const Tile& tile) {
  const auto* const x = static_cast<const std::int32_t*>(tile.x);
  __m512 sum[Tokens][Panels];
#pragma GCC unroll 12
  for (std::size_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
    for (std::size_t p = 0; p < Panels; ++p) {
      sum[t][p] = _mm512_loadu_ps(tile.y + t * tile.ldy + p * panel_rows);
    }
  }
  for (std::size_t i = 0; i < tile.pairs; ++i) {
    __m512bh w[Panels];
#pragma GCC unroll 2
    for (std::size_t p = 0; p < Panels; ++p) {
      const std::byte* const at = tile.w + p * tile.w_stride + i * 64;
      w[p] = (__m512bh)_mm512_loadu_si512(at);
      _mm_prefetch(reinterpret_cast<const char*>(at) + prefetch_bytes, _MM_HINT_T0);
    }
#pragma GCC unroll 12
    for (std::size_t t = 0; t < Tokens; ++t) {
      const auto pair = (__m512bh)_mm512_set1_epi32(x[t * tile.x_stride + i]);
#pragma GCC unroll 2
      for (std::size_t p = 0; p < Panels; ++p) sum[t][p] = _mm512_dpbf16_ps(sum[t][p], w[p], pair);
    }
  }
#pragma GCC unroll 12
  for (std::size_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
    for (std::size_t p = 0; p < Panels; ++p) {
      _mm512_storeu_ps(tile.y + t * tile.ldy + p * panel_rows, sum[t][p]);
    }
  }
}
#undef PLIMSOLL_KERNEL

#endif

struct Kernels {
  void (*round)(const float*, std::size_t, void*);
  std::size_t pair_bytes;  // of what it rounds to
  // multiply[p - 1][t - 1] takes p panels and t tokens.
  std::array<std::array<Kernel, max_tokens>, most_panels> multiply;
};

template <std::size_t Panels, std::size_t... T>
constexpr std::array<Kernel, max_tokens> Generic(std::index_sequence<T...>) {
  return {&Multiply<Panels, T + 1>...};
}
#if HWY_TARGET == HWY_AVX3
template <std::size_t Panels, std::size_t... T>
constexpr std::array<Kernel, max_tokens> Native(std::index_sequence<T...>) {
  return {&MultiplyPairs<Panels, T + 1>...};
}
#endif

constexpr auto all_tokens = std::make_index_sequence<max_tokens>();
#if HWY_TARGET == HWY_AVX3
constexpr Kernels native_kernels{&RoundToBf16, 4, {Native<1>(all_tokens), Native<2>(all_tokens)}};
constexpr Kernels generic_kernels{
    &RoundToFloats, 8, {Generic<1>(all_tokens), Generic<2>(all_tokens)}};
const Kernels& KernelsFor(Isa isa) {
  return isa == Isa::avx512bf16 ? native_kernels : generic_kernels;
}
#else
constexpr Kernels generic_kernels{&RoundToFloats, 8, {Generic<1>(all_tokens)}};
const Kernels& KernelsFor(Isa /*isa*/) { return generic_kernels; }
#endif

// Panels [begin, end) of the product.
void MultiplyBf16(const Product& product, const float* x, std::size_t ldx, std::size_t tokens,
                  std::size_t begin, std::size_t end) {
  HWY_ALIGN std::byte rounded[group_numbers * sizeof(float)];
  const PackedMatrix& w = product.w->packed;
  const Kernels& kernels = KernelsFor(active_isa());
  const auto multiply = [&](std::size_t panel, std::size_t panels, std::size_t first,
                            std::size_t count, std::size_t col, Tile tile) {
    const std::size_t row = panel * panel_rows;
    const std::size_t rows = std::min<std::size_t>(panels * panel_rows, w.rows - row);
    float* const out = product.y + first * product.ldy + row;
    // The last rows: whole panels are computed beside y.
    HWY_ALIGN float beside[max_tokens * most_panels * panel_rows];
    const bool whole = rows == panels * panel_rows;
    tile.y = whole ? out : beside;
    tile.ldy = whole ? product.ldy : panels * panel_rows;
    for (std::size_t t = 0; t < count; ++t) {
      if (col > 0) {
        if (!whole) std::memcpy(beside + t * tile.ldy, out + t * product.ldy, rows * sizeof(float));
      } else if (product.bias != nullptr) {
        std::memcpy(tile.y + t * tile.ldy, product.bias + row, rows * sizeof(float));
      } else {
        std::memset(tile.y + t * tile.ldy, 0, rows * sizeof(float));
      }
      if (!whole) {
        std::memset(beside + t * tile.ldy + rows, 0, (tile.ldy - rows) * sizeof(float));
      }
    }
    kernels.multiply[panels - 1][count - 1](tile);
    for (std::size_t t = 0; t < count && !whole; ++t) {
      std::memcpy(out + t * product.ldy, beside + t * tile.ldy, rows * sizeof(float));
    }
  };
  for (std::size_t group = 0; group < tokens; group += group_tokens) {
    const std::size_t in_group = std::min(group_tokens, tokens - group);
    // Tiles of about the same size: one token alone would read the weights for itself.
    const std::size_t tiles = (in_group + max_tokens - 1) / max_tokens;
    const std::size_t tile_cols =
        group_numbers / in_group / PackedMatrix::block_cols * PackedMatrix::block_cols;
    for (std::size_t col = 0; col < w.cols; col += tile_cols) {
      const std::size_t n = std::min<std::size_t>(tile_cols, w.cols - col);
      const std::size_t token_bytes = n / 2 * kernels.pair_bytes;
      for (std::size_t t = 0; t < in_group; ++t) {
        kernels.round(x + (group + t) * ldx + col, n, rounded + t * token_bytes);
      }
      for (std::size_t panel = begin; panel < end; panel += most_panels) {
        const std::size_t panels = std::min(most_panels, end - panel);
        Tile tile{.w = w.data + panel * w.panel_bytes() + col / 2 * panel_rows * 4,
                  .w_stride = w.panel_bytes(),
                  .x = nullptr,
                  .x_stride = n / 2,
                  .pairs = n / 2,
                  .y = nullptr};
        for (std::size_t i = 0; i < tiles; ++i) {
          const std::size_t first = in_group * i / tiles, last = in_group * (i + 1) / tiles;
          tile.x = rounded + first * token_bytes;
          multiply(panel, panels, group + first, last - first, col, tile);
        }
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(MultiplyBf16);

void matmul_bf16(std::span<const Product> products, const float* x, std::size_t ldx,
                 std::size_t tokens, ThreadPool& pool) {
  const auto multiply = PLIMSOLL_DISPATCH(MultiplyBf16);
  each_products_panels(products, pool,
                       [&](const Product& product, std::size_t begin, std::size_t end) {
                         multiply(product, x, ldx, tokens, begin, end);
                       });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
