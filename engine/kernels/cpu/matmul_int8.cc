// The int8 path: one panel of 16 weight rows against up to 16 tokens at a time.
//
// For each row and token, in this order and on every instruction set:
//   acc = float(dot of mins and sums) * sum_scale, of affine forms; otherwise 0
// and for each block
//   dot = sum of u * q, of centred forms (u - 2^(bits - 1)) * q      exact, int32
//   acc = (float(dot) * scale) * scale_x + acc
//   acc = (float(sum of u) * scale) * offset + acc                   activations with an offset
// and y = acc * factor + bias, or acc * factor + y. AVX-512 and AVX2 fuse each product with its sum
// and so agree to the last bit; the portable twin rounds twice.
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

// One tile of tokens, as quantize_activations lays it out, from some token on.
struct Tokens {
  const std::int8_t* q;
  const float* scale;
  const std::int32_t* start;
  const std::int16_t* sums;
  const float* sum_scale;
  const float* offset;  // null: none
  std::size_t stride;   // tokens of the whole tile

  void next_block() {
    q += stride * block_cols;
    scale += stride;
    start += stride;
    if (offset != nullptr) offset += stride;
  }
  // Sums of two blocks, `pair` * 2 and the next.
  std::int32_t two_sums(std::size_t pair, std::size_t token) const {
    std::int32_t value;
    std::memcpy(&value, sums + (pair * stride + token) * 2, sizeof(value));
    return value;
  }
  std::int32_t four(std::size_t token, std::size_t group) const {
    std::int32_t value;
    std::memcpy(&value, q + token * block_cols + group * 4, sizeof(value));
    return value;
  }
  // What a token's dots with u start from.
  template <PackedForm Form>
  std::int32_t dot_start(std::size_t token) const {
    if (!is_centred(Form)) return 0;
    return bits_of(Form) == 8   ? start[token] * 8
           : bits_of(Form) == 5 ? start[token]
                                : start[token] / 2;
  }
};

// Walks through a panel: first all mins of affine forms, then the blocks.
template <PackedForm Form>
struct BlockReader {
  const std::byte* next;
  const std::byte* scales = nullptr;
  const std::byte* quants = nullptr;

  explicit BlockReader(const std::byte* panel) : next(panel + PackedMatrix::factors_bytes) {}
  // Of two blocks.
  const std::byte* read_mins() {
    const std::byte* const mins = next;
    next += PackedMatrix::header_bytes;
    return mins;
  }
  // To block b: 0, 1, 2...
  void read(std::size_t b) {
    if (b % 2 != 0) {
      scales += PackedMatrix::header_bytes / 2;
    } else {
      scales = next;
      next += PackedMatrix::header_bytes;
    }
    quants = next;
    next += quant_bytes(Form);
  }
};

// Where a kernel's results go: the first row of the first token.
struct Results {
  float* y;
  std::size_t ldy;    // from one token to the next
  bool add;           // to what is there
  const float* bias;  // otherwise to this, of the first row, unless null
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
#define PLIMSOLL_INLINE __attribute__((target("avx512vnni"), always_inline)) inline
constexpr std::size_t max_tokens = 16;
constexpr std::size_t abreast = 6;
// The processor's own prefetching stops at a page's end; running this far ahead of it gave a third
// more throughput to single tokens.
constexpr std::size_t prefetch_bytes = 4096;

// Group g of a block's quants, as unsigned bytes.
template <PackedForm Form>
PLIMSOLL_INLINE __m512i Unpack(const std::byte* quants, std::size_t g) {
  if constexpr (bits_of(Form) == 8) return _mm512_loadu_si512(quants + g * 64);
  const __m512i low = _mm512_set1_epi8(0x0F);
  const __m512i pair = _mm512_loadu_si512(quants + g % 4 * 64);
  const __m512i nibble = _mm512_and_si512(g < 4 ? pair : _mm512_srli_epi16(pair, 4), low);
  if constexpr (bits_of(Form) == 4) return nibble;
  const __m512i high = _mm512_loadu_si512(quants + 256);
  const int shift = static_cast<int>(g) - 4;
  const __m512i fifth =
      shift < 0 ? _mm512_slli_epi16(high, -shift) : _mm512_srli_epi16(high, shift);
  constexpr int a_or_b_and_c = 0xF8;
  return _mm512_ternarylogic_epi32(nibble, fifth, _mm512_set1_epi8(0x10), a_or_b_and_c);
}

template <PackedForm Form, bool Offset, std::size_t N>
PLIMSOLL_KERNEL void MultiplyPanel(const std::byte* panel, std::size_t blocks, const Tokens& tokens,
                                   std::size_t rows, const Results& out) {
  const auto load_halves = [](const std::byte* p) __attribute__((target("avx512vnni"))) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  Tokens x = tokens;
  // Where a loop over `acc` is not unrolled it is an array in memory, cleared by a slow `rep stos`.
  __m512 acc[N];
#pragma GCC unroll 16
  for (std::size_t t = 0; t < N; ++t) acc[t] = _mm512_setzero_ps();
  BlockReader<Form> block(panel);
  if constexpr (!is_centred(Form)) {
    __m512i sums[N];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < N; ++t) sums[t] = _mm512_setzero_si512();
    for (std::size_t pair = 0; pair * 2 < blocks; ++pair) {
      const std::byte* const line = block.read_mins();
      _mm_prefetch(reinterpret_cast<const char*>(line) + prefetch_bytes, _MM_HINT_T0);
      const __m512i mins = _mm512_loadu_si512(line);
#pragma GCC unroll 16
      for (std::size_t t = 0; t < N; ++t) {
        sums[t] = _mm512_dpwssd_epi32(sums[t], mins, _mm512_set1_epi32(x.two_sums(pair, t)));
      }
    }
#pragma GCC unroll 16
    for (std::size_t t = 0; t < N; ++t) {
      acc[t] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[t]), _mm512_set1_ps(x.sum_scale[t]));
    }
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    block.read(b);
    const auto* const ahead = reinterpret_cast<const char*>(block.quants) + prefetch_bytes;
#pragma GCC unroll 9
    for (std::size_t line = 0; line <= quant_bytes(Form); line += 64) {
      _mm_prefetch(ahead + line, _MM_HINT_T0);
    }
    const __m512 scale = load_halves(block.scales);
    __m512i u[groups];
#pragma GCC unroll 8
    for (std::size_t g = 0; g < groups; ++g) u[g] = Unpack<Form>(block.quants, g);
    __m512 sum = _mm512_setzero_ps();  // of the block's weights, but for their mins
    if constexpr (Offset) {
      __m512i all = _mm512_setzero_si512();
      for (const __m512i& four : u) all = _mm512_dpbusd_epi32(all, four, _mm512_set1_epi8(1));
      sum = _mm512_mul_ps(_mm512_cvtepi32_ps(all), scale);
    }
    // Dots of several tokens side by side: the next product of one would wait for its last.
#pragma GCC unroll 16
    for (std::size_t first = 0; first < N; first += abreast) {
      __m512i dots[abreast];
#pragma GCC unroll 8
      for (std::size_t i = 0; i < abreast && first + i < N; ++i) {
        if constexpr (!is_centred(Form)) {
          dots[i] = _mm512_setzero_si512();
        } else {
          dots[i] = _mm512_set1_epi32(x.start[first + i]);
          if constexpr (bits_of(Form) == 8) dots[i] = _mm512_slli_epi32(dots[i], 3);
          if constexpr (bits_of(Form) == 4) dots[i] = _mm512_srai_epi32(dots[i], 1);
        }
      }
#pragma GCC unroll 8
      for (std::size_t g = 0; g < groups; ++g) {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < abreast && first + i < N; ++i) {
          dots[i] = _mm512_dpbusd_epi32(dots[i], u[g], _mm512_set1_epi32(x.four(first + i, g)));
        }
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < abreast && first + i < N; ++i) {
        const std::size_t t = first + i;
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[i]), scale);
        acc[t] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x.scale[t]), acc[t]);
        if constexpr (Offset) acc[t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(x.offset[t]), acc[t]);
      }
    }
    x.next_block();
  }
  const Results to = out;  // for all the compiler knows, a store to y might change `out`
  const __m512 factors = _mm512_loadu_ps(panel);
  const auto mask = static_cast<__mmask16>((1U << rows) - 1);
  const __m512 bias =
      to.bias != nullptr ? _mm512_maskz_loadu_ps(mask, to.bias) : _mm512_setzero_ps();
#pragma GCC unroll 16
  for (std::size_t t = 0; t < N; ++t) {
    float* const y = to.y + t * to.ldy;
    const __m512 before = to.add ? _mm512_maskz_loadu_ps(mask, y) : bias;
    _mm512_mask_storeu_ps(y, mask, _mm512_fmadd_ps(acc[t], factors, before));
  }
}

#elif HWY_TARGET == HWY_AVX2

#define PLIMSOLL_KERNEL __attribute__((noinline))
constexpr std::size_t max_tokens = 4;

// 8 rows of group g of a block's quants, as unsigned bytes.
template <PackedForm Form>
HWY_INLINE __m256i Unpack(const std::byte* quants, std::size_t g) {
  const auto load = [&](std::size_t offset) HWY_ATTR {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + offset));
  };
  if constexpr (bits_of(Form) == 8) return load(g * 64);
  const __m256i pair = load(g % 4 * 64);
  const __m256i nibble =
      _mm256_and_si256(g < 4 ? pair : _mm256_srli_epi16(pair, 4), _mm256_set1_epi8(0x0F));
  if constexpr (bits_of(Form) == 4) return nibble;
  const int shift = static_cast<int>(g) - 4;
  const __m256i high = load(256);
  const __m256i fifth =
      shift < 0 ? _mm256_slli_epi16(high, -shift) : _mm256_srli_epi16(high, shift);
  return _mm256_or_si256(nibble, _mm256_and_si256(fifth, _mm256_set1_epi8(0x10)));
}

// 8 of the panel's rows.
template <PackedForm Form, bool Offset, std::size_t N>
HWY_INLINE void MultiplyHalf(const std::byte* panel, std::size_t half, std::size_t blocks, Tokens x,
                             __m256 (&acc)[N]) {
  const __m256i ones = _mm256_set1_epi16(1);
  BlockReader<Form> block(panel);
  if constexpr (!is_centred(Form)) {
    __m256i sums[N];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (std::size_t pair = 0; pair * 2 < blocks; ++pair) {
      const __m256i mins =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.read_mins() + half * 32));
      for (std::size_t t = 0; t < N; ++t) {
        const __m256i two = _mm256_set1_epi32(x.two_sums(pair, t));
        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(mins, two));
      }
    }
    for (std::size_t t = 0; t < N; ++t) {
      acc[t] = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[t]), _mm256_set1_ps(x.sum_scale[t]));
    }
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    block.read(b);
    const std::byte* const quants = block.quants + half * 32;
    __m256i dots[N];
    if constexpr (bits_of(Form) == 8) {
      // vpmaddubsw saturates at 16 bits, and 2 * 255 * 127 does not fit. With s = u - 128, |s| as
      // the unsigned factor and q with the sign of s, 2 * 128 * 127 does. The sums of the affine
      // form start from 128 * sum(q).
      const __m256i bias = _mm256_set1_epi8(static_cast<char>(0x80));
      for (std::size_t t = 0; t < N; ++t) {
        dots[t] = _mm256_set1_epi32(is_centred(Form) ? 0 : -8 * x.start[t]);
      }
      for (std::size_t g = 0; g < groups; ++g) {
        const __m256i s = _mm256_xor_si256(Unpack<Form>(quants, g), bias);
        const __m256i magnitude = _mm256_abs_epi8(s);
        for (std::size_t t = 0; t < N; ++t) {
          const __m256i q = _mm256_set1_epi32(x.four(t, g));
          const __m256i products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(q, s));
          dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(products, ones));
        }
      }
    } else {
      // Sums of two products, of at most 15 * 127 or 31 * 127, fit 16 bits 8 times or 4 times.
      constexpr std::size_t at_once = bits_of(Form) == 4 ? 8 : 4;
      for (std::size_t t = 0; t < N; ++t) {
        dots[t] = _mm256_set1_epi32(x.dot_start<Form>(t));
      }
      for (std::size_t first = 0; first < groups; first += at_once) {
        __m256i pairs[N];
        for (__m256i& pair : pairs) pair = _mm256_setzero_si256();
        for (std::size_t g = first; g < first + at_once; ++g) {
          const __m256i u = Unpack<Form>(quants, g);
          for (std::size_t t = 0; t < N; ++t) {
            pairs[t] = _mm256_add_epi16(pairs[t],
                                        _mm256_maddubs_epi16(u, _mm256_set1_epi32(x.four(t, g))));
          }
        }
        for (std::size_t t = 0; t < N; ++t) {
          dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(pairs[t], ones));
        }
      }
    }
    const auto load_halves = [&](const std::byte* p) HWY_ATTR {
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + half * 16)));
    };
    const __m256 scale = load_halves(block.scales);
    for (std::size_t t = 0; t < N; ++t) {
      const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[t]), scale);
      acc[t] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x.scale[t]), acc[t]);
    }
    if constexpr (Offset) {
      __m256i all = _mm256_setzero_si256();
      for (std::size_t g = 0; g < groups; ++g) {
        const __m256i pairs = _mm256_maddubs_epi16(Unpack<Form>(quants, g), _mm256_set1_epi8(1));
        all = _mm256_add_epi32(all, _mm256_madd_epi16(pairs, ones));
      }
      const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(all), scale);
      for (std::size_t t = 0; t < N; ++t) {
        acc[t] = _mm256_fmadd_ps(sum, _mm256_set1_ps(x.offset[t]), acc[t]);
      }
    }
    x.next_block();
  }
}

template <PackedForm Form, bool Offset, std::size_t N>
PLIMSOLL_KERNEL void MultiplyPanel(const std::byte* panel, std::size_t blocks, const Tokens& tokens,
                                   std::size_t rows, const Results& out) {
  for (std::size_t half = 0; half < 2 && half * 8 < rows; ++half) {
    __m256 acc[N];
    for (__m256& a : acc) a = _mm256_setzero_ps();
    MultiplyHalf<Form, Offset, N>(panel, half, blocks, tokens, acc);
    const __m256 factors = _mm256_loadu_ps(reinterpret_cast<const float*>(panel) + half * 8);
    const std::size_t bytes = std::min<std::size_t>(rows - half * 8, 8) * sizeof(float);
    for (std::size_t t = 0; t < N; ++t) {
      float* const y = out.y + t * out.ldy + half * 8;
      float eight[8] = {};
      if (out.add) {
        std::memcpy(eight, y, bytes);
      } else if (out.bias != nullptr) {
        std::memcpy(eight, out.bias + half * 8, bytes);
      }
      _mm256_storeu_ps(eight, _mm256_fmadd_ps(acc[t], factors, _mm256_loadu_ps(eight)));
      std::memcpy(y, eight, bytes);
    }
  }
}

#else

#define PLIMSOLL_KERNEL
constexpr std::size_t max_tokens = 1;

template <PackedForm Form>
std::int32_t Quant(const std::byte* quants, std::size_t r, std::size_t c) {
  const auto byte = [&](std::size_t i) { return std::to_integer<std::int32_t>(quants[i]); };
  const std::size_t g = c / 4, in_group = r * 4 + c % 4;
  if (bits_of(Form) == 8) return byte(g * 64 + in_group);
  const std::int32_t pair = byte(g % 4 * 64 + in_group);
  const std::int32_t nibble = g < 4 ? pair & 0x0F : pair >> 4;
  return bits_of(Form) == 4 ? nibble : nibble | (byte(256 + in_group) >> g & 1) << 4;
}

template <PackedForm Form, bool Offset, std::size_t N>
void MultiplyPanel(const std::byte* panel, std::size_t blocks, const Tokens& tokens,
                   std::size_t rows, const Results& out) {
  static_assert(N == 1);
  Tokens x = tokens;
  float factors[panel_rows], acc[panel_rows] = {};
  std::memcpy(factors, panel, sizeof(factors));
  BlockReader<Form> block(panel);
  if constexpr (!is_centred(Form)) {
    std::int32_t sums[panel_rows] = {};
    for (std::size_t pair = 0; pair * 2 < blocks; ++pair) {
      std::int16_t mins[panel_rows * 2];
      std::memcpy(mins, block.read_mins(), sizeof(mins));
      const std::int16_t* const two = x.sums + pair * x.stride * 2;
      for (std::size_t r = 0; r < panel_rows; ++r) {
        sums[r] += mins[r * 2] * two[0] + mins[r * 2 + 1] * two[1];
      }
    }
    for (std::size_t r = 0; r < panel_rows; ++r) {
      acc[r] = static_cast<float>(sums[r]) * x.sum_scale[0];
    }
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    block.read(b);
    std::uint16_t scale[panel_rows];
    std::memcpy(scale, block.scales, sizeof(scale));
    for (std::size_t r = 0; r < panel_rows; ++r) {
      std::int32_t dot = x.dot_start<Form>(0), all = 0;
      for (std::size_t c = 0; c < block_cols; ++c) {
        const std::int32_t u = Quant<Form>(block.quants, r, c);
        dot += u * x.q[c];
        all += u;
      }
      acc[r] += static_cast<float>(dot) * half_to_float(scale[r]) * x.scale[0];
      if (Offset) acc[r] += static_cast<float>(all) * half_to_float(scale[r]) * x.offset[0];
    }
    x.next_block();
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const float bias = out.bias != nullptr ? out.bias[r] : 0.0F;
    out.y[r] = acc[r] * factors[r] + (out.add ? out.y[r] : bias);
  }
}

#endif

using Kernel = void (*)(const std::byte*, std::size_t, const Tokens&, std::size_t, const Results&);
using Kernels = std::array<Kernel, max_tokens>;

// kernels<Form>[n - 1] takes n tokens.
template <PackedForm Form, bool Offset, std::size_t... N>
constexpr Kernels KernelsOf(std::index_sequence<N...>) {
  return {&MultiplyPanel<Form, Offset, N + 1>...};
}
template <PackedForm Form, bool Offset = false>
constexpr Kernels kernels = KernelsOf<Form, Offset>(std::make_index_sequence<max_tokens>());

const Kernels& KernelsFor(PackedForm form, bool offset) {
  if (offset) {
    HWY_ASSERT(form == PackedForm::u8);
    return kernels<PackedForm::u8, true>;
  }
  switch (form) {
    case PackedForm::u4: return kernels<PackedForm::u4>;
    case PackedForm::u5: return kernels<PackedForm::u5>;
    case PackedForm::c4: return kernels<PackedForm::c4>;
    case PackedForm::c5: return kernels<PackedForm::c5>;
    case PackedForm::c8: return kernels<PackedForm::c8>;
    case PackedForm::u8:
    case PackedForm::bf16:
    case PackedForm::none: break;
  }
  return kernels<PackedForm::u8>;
}

// Panel p of a product against one tile of x.
void MultiplyTile(const Kernels& kernel, const Product& product, std::size_t p,
                  const QuantizedActivations& x, std::size_t tile, std::size_t tokens, bool add) {
  const PackedMatrix& w = product.w->packed;
  const std::byte* const panel = w.data + p * w.panel_bytes();
  const std::size_t rows = std::min(panel_rows, w.rows - p * panel_rows);
  const std::size_t in_tile = std::min(tile_tokens, tokens - tile);
  const float* const bias = product.bias != nullptr ? product.bias + p * panel_rows : nullptr;
  for (std::size_t t = 0; t < in_tile; t += max_tokens) {
    const std::size_t n = std::min(max_tokens, in_tile - t);
    const std::size_t i = tile * w.blocks() + t;
    const float* const offset = x.offset != nullptr ? x.offset + i : nullptr;
    const std::int16_t* const sums = x.sums + (tile * w.block_pairs() + t) * 2;
    const Tokens part{x.q + i * block_cols,   x.scale + i, x.start + i, sums,
                      x.sum_scale + tile + t, offset,      in_tile};
    float* const y = product.y + (tile + t) * product.ldy + p * panel_rows;
    kernel[n - 1](panel, w.blocks(), part, rows, {y, product.ldy, add, bias});
  }
}

// Panels [begin, end) of a product.
void MultiplyPanels(const Product& product, const QuantizedActivations& x, std::size_t tokens,
                    std::size_t begin, std::size_t end) {
  const PackedMatrix& w = product.w->packed;
  const Kernels& kernel = KernelsFor(w.form, x.offset != nullptr);
  const bool rest_has_offset = product.rest != nullptr && product.rest->offset != nullptr;
  const Kernels& rest_kernel = KernelsFor(w.form, rest_has_offset);
  // As many panels as stay in the second-level cache while the tokens stream past them.
  constexpr std::size_t cache_bytes = 256 * 1024;
  const std::size_t together = std::max<std::size_t>(1, cache_bytes / w.panel_bytes());
  for (std::size_t first = begin; first < end; first += together) {
    const std::size_t last = std::min(end, first + together);
    for (std::size_t tile = 0; tile < tokens; tile += tile_tokens) {
      for (std::size_t p = first; p < last; ++p) {
        MultiplyTile(kernel, product, p, x, tile, tokens, false);
        if (product.rest == nullptr) continue;
        MultiplyTile(rest_kernel, product, p, *product.rest, tile, tokens, true);
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

void matmul_int8(std::span<const Product> products, const QuantizedActivations& x,
                 std::size_t tokens, ThreadPool& pool) {
  const auto multiply = PLIMSOLL_DISPATCH(MultiplyPanels);
  each_products_panels(products, pool,
                       [&](const Product& product, std::size_t begin, std::size_t end) {
                         multiply(product, x, tokens, begin, end);
                       });
}

}  // namespace plimsoll
#endif  // HWY_ONCE
