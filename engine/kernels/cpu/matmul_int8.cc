// The int8 path: one panel of 16 weight rows against up to 16 tokens at a time.
//
// For each row, token and block, in this order and on every instruction set:
//   dot = sum of u * q                       exact, int32
//   acc = (float(dot) * scale) * scale_x + acc
//   acc = min * scaled_sum + acc
// AVX-512 and AVX2 fuse each product with its sum and so agree to the last bit; the portable twin
// rounds twice.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/kernels/cpu/matmul_paths.h"
#include "engine/quantize/dequantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/matmul_int8.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#ifndef PLIMSOLL_MATMUL_INT8_ONCE
#define PLIMSOLL_MATMUL_INT8_ONCE
namespace plimsoll {
namespace {

constexpr std::size_t panel_rows = PackedMatrix::panel_rows;
constexpr std::size_t block_cols = PackedMatrix::block_cols;
constexpr std::size_t tile_tokens = QuantizedActivations::tile_tokens;
constexpr std::size_t groups = block_cols / 4;  // of four columns, the dot instruction's depth
constexpr std::size_t header_bytes = 2 * panel_rows * sizeof(std::uint16_t);

template <PackedForm Form>
constexpr std::size_t block_bytes = header_bytes + (Form == PackedForm::u4 ? 256 : 512);

// One tile of tokens, as quantize_activations lays it out, from some token on.
struct Tokens {
  const std::int8_t* q;
  const float* scale;
  const std::int32_t* sum;
  const float* scaled_sum;
  std::size_t stride;  // tokens of the whole tile

  void next_block() {
    q += stride * block_cols;
    scale += stride;
    sum += stride;
    scaled_sum += stride;
  }
};

}  // namespace
}  // namespace plimsoll
#endif

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3

// Highway's AVX-512 target knows nothing of VNNI; active_isa() makes sure that it is there.
#define PLIMSOLL_KERNEL __attribute__((target("avx512vnni"), noinline))
constexpr std::size_t max_tokens = 16;
constexpr std::size_t abreast = 4;
// The processor's own prefetching stops at a page's end; running this far ahead of it gave a third
// more throughput to single tokens.
constexpr std::size_t prefetch_bytes = 4096;

template <PackedForm Form, std::size_t N>
PLIMSOLL_KERNEL void MultiplyPanel(const std::byte* panel, std::size_t blocks, Tokens x,
                                   std::size_t rows, float* y, std::size_t ldy) {
  const __m512 factors = _mm512_loadu_ps(panel);
  panel += PackedMatrix::factors_bytes;
  __m512 acc[N];
  for (__m512& a : acc) a = _mm512_setzero_ps();
  const __m512i low = _mm512_set1_epi8(0x0F);
  for (std::size_t b = 0; b < blocks; ++b) {
    const __m512 scale =
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel)));
    const __m512 min =
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 32)));
#pragma GCC unroll 9
    for (std::size_t line = 0; line < block_bytes<Form>; line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(panel) + prefetch_bytes + line, _MM_HINT_T0);
    }
    panel += header_bytes;
    __m512i u[groups];
    if constexpr (Form == PackedForm::u4) {
      for (std::size_t g = 0; g < groups / 2; ++g) {
        const __m512i pair = _mm512_loadu_si512(panel + g * 64);
        u[g] = _mm512_and_si512(pair, low);
        u[g + groups / 2] = _mm512_and_si512(_mm512_srli_epi16(pair, 4), low);
      }
    } else {
      for (std::size_t g = 0; g < groups; ++g) u[g] = _mm512_loadu_si512(panel + g * 64);
    }
    panel += block_bytes<Form> - header_bytes;
    // Dots of several tokens side by side: the next product of one would wait for its last.
#pragma GCC unroll 16
    for (std::size_t first = 0; first < N; first += abreast) {
      __m512i dots[abreast];
      for (__m512i& dot : dots) dot = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (std::size_t g = 0; g < groups; ++g) {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < abreast && first + i < N; ++i) {
          std::int32_t four;
          std::memcpy(&four, x.q + (first + i) * block_cols + g * 4, sizeof(four));
          dots[i] = _mm512_dpbusd_epi32(dots[i], u[g], _mm512_set1_epi32(four));
        }
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < abreast && first + i < N; ++i) {
        const std::size_t t = first + i;
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[i]), scale);
        acc[t] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x.scale[t]), acc[t]);
        acc[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(x.scaled_sum[t]), acc[t]);
      }
    }
    x.next_block();
  }
  const auto mask = static_cast<__mmask16>((1U << rows) - 1);
  for (std::size_t t = 0; t < N; ++t) {
    _mm512_mask_storeu_ps(y + t * ldy, mask, _mm512_mul_ps(acc[t], factors));
  }
}

#elif HWY_TARGET == HWY_AVX2

#define PLIMSOLL_KERNEL __attribute__((noinline))
constexpr std::size_t max_tokens = 4;

// 8 of the panel's rows.
template <PackedForm Form, std::size_t N>
HWY_INLINE void MultiplyHalf(const std::byte* panel, std::size_t half, std::size_t blocks, Tokens x,
                             __m256 (&acc)[N]) {
  const __m256i low = _mm256_set1_epi8(0x0F);
  const __m256i ones = _mm256_set1_epi16(1);
  panel += PackedMatrix::factors_bytes;
  for (std::size_t b = 0; b < blocks; ++b) {
    const __m256 scale =
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + half * 16)));
    const __m256 min =
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + 32 + half * 16)));
    const auto load = [&](std::size_t g) HWY_ATTR {
      return _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(panel + header_bytes + g * 64 + half * 32));
    };
    __m256i dots[N];
    if constexpr (Form == PackedForm::u4) {
      // Eight sums of two products of at most 15 * 127 fit 16 bits: 30480.
      for (__m256i& dot : dots) dot = _mm256_setzero_si256();
      for (std::size_t g = 0; g < groups / 2; ++g) {
        const __m256i pair = load(g);
        const __m256i u_low = _mm256_and_si256(pair, low);
        const __m256i u_high = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
        for (std::size_t t = 0; t < N; ++t) {
          std::int32_t four[2];
          std::memcpy(&four[0], x.q + t * block_cols + g * 4, 4);
          std::memcpy(&four[1], x.q + t * block_cols + block_cols / 2 + g * 4, 4);
          dots[t] = _mm256_add_epi16(
              dots[t], _mm256_add_epi16(_mm256_maddubs_epi16(u_low, _mm256_set1_epi32(four[0])),
                                        _mm256_maddubs_epi16(u_high, _mm256_set1_epi32(four[1]))));
        }
      }
      for (__m256i& dot : dots) dot = _mm256_madd_epi16(dot, ones);
    } else {
      // vpmaddubsw saturates at 16 bits, and 2 * 255 * 127 does not fit. With s = u - 128, |s| as
      // the unsigned factor and q with the sign of s, 2 * 128 * 127 does. The sums start from 128 *
      // sum(q).
      const __m256i bias = _mm256_set1_epi8(static_cast<char>(0x80));
      for (std::size_t t = 0; t < N; ++t) dots[t] = _mm256_set1_epi32(128 * x.sum[t]);
      for (std::size_t g = 0; g < groups; ++g) {
        const __m256i s = _mm256_xor_si256(load(g), bias);
        const __m256i magnitude = _mm256_abs_epi8(s);
        for (std::size_t t = 0; t < N; ++t) {
          std::int32_t four;
          std::memcpy(&four, x.q + t * block_cols + g * 4, 4);
          const __m256i q = _mm256_set1_epi32(four);
          const __m256i products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(q, s));
          dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(products, ones));
        }
      }
    }
    panel += block_bytes<Form>;
    for (std::size_t t = 0; t < N; ++t) {
      const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[t]), scale);
      acc[t] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x.scale[t]), acc[t]);
      acc[t] = _mm256_fmadd_ps(min, _mm256_set1_ps(x.scaled_sum[t]), acc[t]);
    }
    x.next_block();
  }
}

template <PackedForm Form, std::size_t N>
PLIMSOLL_KERNEL void MultiplyPanel(const std::byte* panel, std::size_t blocks, Tokens x,
                                   std::size_t rows, float* y, std::size_t ldy) {
  for (std::size_t half = 0; half < 2 && half * 8 < rows; ++half) {
    __m256 acc[N];
    for (__m256& a : acc) a = _mm256_setzero_ps();
    MultiplyHalf<Form, N>(panel, half, blocks, x, acc);
    const __m256 factors = _mm256_loadu_ps(reinterpret_cast<const float*>(panel) + half * 8);
    for (std::size_t t = 0; t < N; ++t) {
      float out[8];
      _mm256_storeu_ps(out, _mm256_mul_ps(acc[t], factors));
      std::memcpy(y + t * ldy + half * 8, out, std::min<std::size_t>(rows - half * 8, 8) * 4);
    }
  }
}

#else

#define PLIMSOLL_KERNEL
constexpr std::size_t max_tokens = 1;

template <PackedForm Form, std::size_t N>
void MultiplyPanel(const std::byte* panel, std::size_t blocks, Tokens x, std::size_t rows, float* y,
                   std::size_t) {
  static_assert(N == 1);
  float factors[panel_rows], acc[panel_rows] = {};
  std::memcpy(factors, panel, sizeof(factors));
  panel += PackedMatrix::factors_bytes;
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint16_t scale[panel_rows], min[panel_rows];
    std::memcpy(scale, panel, sizeof(scale));
    std::memcpy(min, panel + sizeof(scale), sizeof(min));
    panel += header_bytes;
    std::int32_t dot[panel_rows] = {};
    for (std::size_t g = 0; g < groups; ++g) {
      const bool high = Form == PackedForm::u4 && g >= groups / 2;
      const std::byte* const u = panel + (high ? g - groups / 2 : g) * 64;
      for (std::size_t i = 0; i < 4 * panel_rows; ++i) {
        std::int32_t v = std::to_integer<std::int32_t>(u[i]);
        if (Form == PackedForm::u4) v = high ? v >> 4 : v & 0x0F;
        dot[i / 4] += v * x.q[g * 4 + i % 4];
      }
    }
    panel += block_bytes<Form> - header_bytes;
    for (std::size_t r = 0; r < panel_rows; ++r) {
      acc[r] += static_cast<float>(dot[r]) * half_to_float(scale[r]) * x.scale[0];
      acc[r] += half_to_float(min[r]) * x.scaled_sum[0];
    }
    x.next_block();
  }
  for (std::size_t r = 0; r < rows; ++r) y[r] = acc[r] * factors[r];
}

#endif

using PanelKernel = void (*)(const std::byte*, std::size_t, Tokens, std::size_t, float*,
                             std::size_t);

// kernels<Form>[n - 1] takes n tokens.
template <PackedForm Form, std::size_t... N>
constexpr std::array<PanelKernel, sizeof...(N)> Kernels(std::index_sequence<N...>) {
  return {&MultiplyPanel<Form, N + 1>...};
}
template <PackedForm Form>
constexpr auto kernels = Kernels<Form>(std::make_index_sequence<max_tokens>());

// Panels [begin, end) of the product.
void MultiplyPanels(const PackedMatrix& w, const QuantizedActivations& x, std::size_t tokens,
                    std::size_t begin, std::size_t end, float* y, std::size_t ldy) {
  const auto& kernel = w.form == PackedForm::u4 ? kernels<PackedForm::u4> : kernels<PackedForm::u8>;
  const std::size_t blocks = w.cols / block_cols;
  // As many panels as stay in the second-level cache while the tokens stream past them.
  constexpr std::size_t cache_bytes = 256 * 1024;
  const std::size_t together = std::max<std::size_t>(1, cache_bytes / w.panel_bytes());
  for (std::size_t first = begin; first < end; first += together) {
    const std::size_t last = std::min(end, first + together);
    for (std::size_t tile = 0; tile < tokens; tile += tile_tokens) {
      const std::size_t in_tile = std::min(tile_tokens, tokens - tile);
      for (std::size_t p = first; p < last; ++p) {
        const std::byte* const panel = w.data + p * w.panel_bytes();
        const std::size_t rows = std::min(panel_rows, w.rows - p * panel_rows);
        for (std::size_t t = 0; t < in_tile; t += max_tokens) {
          const std::size_t n = std::min(max_tokens, in_tile - t);
          const std::size_t i = tile * blocks + t;
          const Tokens part{x.q + i * block_cols, x.scale + i, x.sum + i, x.scaled_sum + i,
                            in_tile};
          kernel[n - 1](panel, blocks, part, rows, y + (tile + t) * ldy + p * panel_rows, ldy);
        }
      }
    }
  }
}

#undef PLIMSOLL_KERNEL

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(MultiplyPanels);

void matmul_int8(const PackedMatrix& w, const QuantizedActivations& x, std::size_t tokens, float* y,
                 std::size_t ldy, ThreadPool& pool) {
  if (tokens == 0) return;
  const auto multiply = PLIMSOLL_DISPATCH(MultiplyPanels);
  pool.parallel_for(w.panels(), 1, [&](std::size_t begin, std::size_t end, int) {
    multiply(w, x, tokens, begin, end, y, ldy);
  });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
