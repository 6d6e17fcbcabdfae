#include "engine/kernels/cpu/matmul.h"

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/engine/kernels/weights.h"

namespace plimsoll {
namespace {

// One type for each packed form.
constexpr TensorType packed_types[] = {TensorType::q4_0, TensorType::q4_k, TensorType::q5_0,
                                       TensorType::q5_k, TensorType::q8_0, TensorType::q6_k};

// A 64-byte aligned buffer with activations in it.
struct Quantized {
  std::vector<std::byte> storage;
  QuantizedActivations a;
  std::size_t tokens, cols;

  Quantized(const float* x, std::size_t ldx, std::size_t n, std::size_t c, ThreadPool& pool,
            bool with_offset = false)
      : storage(QuantizedActivations::bytes(n, c, with_offset) + 64), tokens(n), cols(c) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage.data());
    a = QuantizedActivations::in(storage.data() + (64 - address % 64) % 64, n, c, with_offset);
    quantize_activations(x, ldx, n, c, a, pool);
  }
  // Where token t's block b lies, as matmul.h describes it.
  std::size_t at(std::size_t t, std::size_t b) const {
    const std::size_t tile = t / 16 * 16;
    return tile * (cols / 32) + b * std::min<std::size_t>(16, tokens - tile) + t % 16;
  }
  // What stands for the sum of token t's block b, where weights have mins.
  double sum(std::size_t t, std::size_t b) const {
    const std::size_t tile = t / 16 * 16, in_tile = std::min<std::size_t>(16, tokens - tile);
    const std::size_t pair = tile * ((cols / 32 + 1) / 2) + b / 2 * in_tile + t % 16;
    return static_cast<double>(a.sum_scale[t]) * a.sums[pair * 2 + b % 2];
  }
  // What stands for token t's column c.
  double value(std::size_t t, std::size_t c) const {
    const std::size_t i = at(t, c / 32);
    return static_cast<double>(a.scale[i]) * a.q[i * 32 + c % 32] +
           (a.offset != nullptr ? a.offset[i] : 0.0);
  }
};

// y = x W^T, one product alone.
void multiply(const WeightMatrix& w, const float* x, std::size_t ldx, const QuantizedActivations& q,
              std::size_t tokens, float* y, std::size_t ldy, ThreadPool& pool) {
  const Product product{&w, y, ldy};
  matmul({&product, 1}, x, ldx, q, tokens, pool);
}

class Matmul : public EveryIsa {};
PLIMSOLL_FOR_EVERY_ISA(Matmul);

TEST_P(Matmul, QuantizesToTheNearestOf255Steps) {
  ThreadPool pool(2);
  for (const std::size_t tokens : {1, 15, 16, 33}) {
    constexpr std::size_t cols = 224, ldx = 229;
    auto x = random_floats(tokens * ldx, 1, 3.0F);
    for (std::size_t i = 0; i < 32; ++i) x[i] = 0.0F;
    for (std::size_t i = 32; i < 64; ++i) x[i] = i % 2 != 0 ? 1e-38F : -1e-44F;
    for (std::size_t i = 64; i < 96; ++i) x[i] = i % 2 != 0 ? 3e38F : -1.0F;
    const Quantized q(x.data(), ldx, tokens, cols, pool);
    for (std::size_t t = 0; t < tokens; ++t) {
      double sums[cols / 32];
      for (std::size_t b = 0; b < cols / 32; ++b) {
        const std::size_t at = q.at(t, b);
        float largest = 0;
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < 32; ++i) {
          const float v = x[t * ldx + b * 32 + i];
          largest = std::max(largest, std::abs(v));
          const int got = q.a.q[at * 32 + i];
          sum += got;
          ASSERT_GE(got, -127);  // -128 would overflow the AVX2 kernel's 16-bit sums
          ASSERT_NEAR(static_cast<double>(q.a.scale[at]) * got, v, 0.5001 * q.a.scale[at] + 1e-30);
        }
        EXPECT_NEAR(q.a.scale[at], largest / 127, largest * 1e-7 + 1e-30);
        EXPECT_EQ(q.a.start[at], -16 * sum);
        sums[b] = static_cast<double>(q.a.scale[at]) * sum;
      }
      if (t == 0) continue;  // of which one sum is no float
      double magnitude = 0, greatest = 0;
      for (std::size_t b = 0; b < cols / 32; ++b) {
        EXPECT_NEAR(q.sum(t, b), sums[b], 0.5001 * q.a.sum_scale[t]);
        magnitude += std::abs(sums[b]);
        greatest = std::max(greatest, std::abs(sums[b]));
      }
      EXPECT_LT(q.a.sum_scale[t], 1.01 * std::max(magnitude / 262144, greatest / 32767));
    }
  }
}

TEST_P(Matmul, WithAnOffsetTheStepsAreBetweenLeastAndMost) {
  ThreadPool pool(1);
  const std::size_t tokens = 17, cols = 224;
  auto x = random_floats(tokens * cols, 1);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % cols < 32) x[i] = 5.0F + 0.1F * x[i];
    if (i % cols >= 64 && i % cols < 96) x[i] = -3.25F;
    // Of two neighbouring floats the middle is one, here the greater.
    if (i % cols >= 96 && i % cols < 128) x[i] = 1.0F + (i % 2 != 0 ? 2.0F : 1.0F) * 0x1p-23F;
  }
  const Quantized q(x.data(), cols, tokens, cols, pool, true);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t b = 0; b < cols / 32; ++b) {
      const auto [least, most] =
          std::minmax_element(&x[t * cols + b * 32], &x[t * cols + b * 32] + 32);
      const double step = (static_cast<double>(*most) - *least) / 254;
      std::int32_t sum = 0;
      for (std::size_t c = b * 32; c < b * 32 + 32; ++c) {
        const int got = q.a.q[q.at(t, b) * 32 + c % 32];
        sum += got;
        ASSERT_GE(got, -127);
        ASSERT_NEAR(q.value(t, c), x[t * cols + c], 0.501 * step + 1e-6) << t << ' ' << c;
      }
      EXPECT_EQ(q.a.start[q.at(t, b)], -16 * sum);
      double values = 0;
      for (std::size_t c = b * 32; c < b * 32 + 32; ++c) values += q.value(t, c);
      EXPECT_NEAR(q.sum(t, b), values, 0.501 * q.a.sum_scale[t] + 1e-4);
    }
  }
}

TEST_P(Matmul, NanAndInfinityAreNotHidden) {
  ThreadPool pool(1);
  const std::size_t cols = 192;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const std::size_t place : {32, 39, 63, 167}) {
      std::vector<float> x(cols, 1.0F);
      x[place] = bad;
      const Quantized with_offset(x.data(), cols, 1, cols, pool, true);
      EXPECT_TRUE(std::isnan(with_offset.value(0, place)));
      const Quantized q(x.data(), cols, 1, cols, pool);
      EXPECT_TRUE(std::isnan(q.a.sum_scale[0]) && std::isnan(with_offset.a.sum_scale[0]));
      for (std::size_t b = 0; b < cols / 32; ++b) {
        if (b == place / 32) {
          EXPECT_TRUE(std::isnan(q.a.scale[b]));
        } else {
          EXPECT_EQ(q.a.scale[b], 1.0F / 127);
          EXPECT_EQ(q.a.start[b], -16 * 32 * 127);
        }
      }
    }
  }
}

// The float path against the definition, over every type.
TEST_P(Matmul, Float32MatchesDouble) {
  ThreadPool pool(2);
  for (const TensorType type : weight_types) {
    for (const std::size_t rows : {1, 7, 8, 21}) {
      const std::size_t cols = 768, ldx = cols + 3, ldy = rows + 2;
      const Weights weights(type, rows, cols, 3);
      const auto w = weights.values();
      for (const std::size_t tokens : {0, 1, 2, 3, 8, 10}) {
        const auto x = random_floats(std::max<std::size_t>(1, tokens) * ldx, 4);
        std::vector<float> y(tokens * ldy + 1, -7.0F);
        multiply({weights.view, {}}, x.data(), ldx, {}, tokens, y.data(), ldy, pool);
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t r = 0; r < rows; ++r) {
            double want = 0, magnitude = 0;
            for (std::size_t i = 0; i < cols; ++i) {
              const double product = static_cast<double>(w[r * cols + i]) * x[t * ldx + i];
              want += product;
              magnitude += std::abs(product);
            }
            ASSERT_NEAR(y[t * ldy + r], want, 2e-6 * magnitude);
          }
          ASSERT_EQ(y[t * ldy + rows], -7.0F) << "written beyond the row";
        }
      }
    }
  }
}

// As dequantize() expands it, and rounded as packed_test says.
float nearest_bf16(float value) {
  static Weights weights(TensorType::f32, 1, 32, 1);
  std::memcpy(weights.storage.data(), &value, sizeof(value));
  return static_cast<float>(packed_value(Packed(weights.view, PackedForm::bf16).matrix, 0, 0));
}

// The bfloat16 path against its definition: both factors rounded, sums that are not.
TEST_P(Matmul, Bf16MatchesDouble) {
  ThreadPool pool(2);
  for (const std::size_t rows : {1, 16, 17, 41, 64}) {
    for (const std::size_t cols : {32, 288, 1600}) {
      const std::size_t ldx = cols + 3, ldy = rows + 2;
      const Weights weights(TensorType::f32, rows, cols, 3);
      const Packed packed(weights.view, PackedForm::bf16);
      const auto bias = random_floats(rows, 5);
      const WeightMatrix w{weights.view, packed.matrix};
      for (const std::size_t tokens : {0, 1, 2, 12, 13, 49}) {
        const auto x = random_floats(std::max<std::size_t>(1, tokens) * ldx, 4);
        auto rounded = x;
        for (std::size_t i = 0; i < tokens * ldx; ++i) rounded[i] = nearest_bf16(x[i]);
        std::vector<float> y(tokens * ldy + 1, -7.0F);
        const Product product{.w = &w, .y = y.data(), .ldy = ldy, .bias = bias.data()};
        matmul({&product, 1}, x.data(), ldx, {}, tokens, pool);
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t r = 0; r < rows; ++r) {
            double want = bias[r], magnitude = std::abs(bias[r]);
            for (std::size_t i = 0; i < cols; ++i) {
              const double product = packed_value(packed.matrix, r, i) * rounded[t * ldx + i];
              want += product;
              magnitude += std::abs(product);
            }
            ASSERT_NEAR(y[t * ldy + r], want, 2e-6 * magnitude) << rows << ' ' << cols << ' ' << t;
          }
          ASSERT_EQ(y[t * ldy + rows], -7.0F) << "written beyond the row";
        }
      }
    }
  }
}

TEST_P(Matmul, Bf16HidesNeitherNanNorInfinity) {
  ThreadPool pool(1);
  const Weights weights(TensorType::f32, 1, 32, 1);
  const Packed packed(weights.view, PackedForm::bf16);
  // The greatest bit pattern of a NaN would round to zero.
  for (const float bad :
       {std::bit_cast<float>(0x7FFFFFFF), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x(32, 1.0F);
    x[5] = bad;
    float y = 0;
    multiply({weights.view, packed.matrix}, x.data(), 32, {}, 1, &y, 1, pool);
    EXPECT_FALSE(std::isfinite(y));
  }
}

// All paths add what belongs to each row.
TEST_P(Matmul, BiasIsAdded) {
  ThreadPool pool(2);
  const std::size_t rows = 41, cols = 1600, tokens = 5;
  const auto x = random_floats(tokens * cols, 4), bias = random_floats(rows, 5);
  for (const bool packs : {false, true}) {
    const Weights weights(TensorType::f32, rows, cols, 3);
    const Packed packed(weights.view);
    const WeightMatrix w{weights.view, packs ? packed.matrix : PackedMatrix{}};
    const Quantized q(x.data(), cols, tokens, cols, pool);
    std::vector<float> without(tokens * rows), with(tokens * rows);
    multiply(w, x.data(), cols, q.a, tokens, without.data(), rows, pool);
    const Product product{.w = &w, .y = with.data(), .ldy = rows, .bias = bias.data()};
    matmul({&product, 1}, x.data(), cols, q.a, tokens, pool);
    for (std::size_t i = 0; i < with.size(); ++i) {
      ASSERT_NEAR(with[i], without[i] + bias[i % rows], 1e-5 * cols) << i;
      ASSERT_NE(with[i], without[i]);
    }
  }
}

TEST_P(Matmul, Float32TakesUnalignedFilesAndOddColumns) {
  ThreadPool pool(1);
  const std::size_t rows = 9, cols = 37, tokens = 4;
  const Weights weights(TensorType::f32, rows, cols, 3);
  std::vector<std::byte> shifted(weights.view.bytes + 1);
  std::memcpy(shifted.data() + 1, weights.storage.data(), weights.view.bytes);
  TensorView view = weights.view;
  view.data = shifted.data() + 1;
  const auto x = random_floats(tokens * cols, 4);
  std::vector<float> aligned(tokens * rows), unaligned(tokens * rows);
  multiply({weights.view, {}}, x.data(), cols, {}, tokens, aligned.data(), rows, pool);
  multiply({view, {}}, x.data(), cols, {}, tokens, unaligned.data(), rows, pool);
  EXPECT_EQ(aligned, unaligned);
}

// The int8 path against its definition: packed weights times quantized activations.
TEST_P(Matmul, Int8MatchesDouble) {
  ThreadPool pool(2);
  std::vector<TensorType> types(std::begin(packed_types), std::end(packed_types));
  types.insert(types.end(), {TensorType::q4_1, TensorType::f32});
  for (const TensorType type : types) {
    for (const std::size_t rows : {1, 15, 16, 41}) {
      for (const std::size_t cols : {256, 288, 768}) {
        if (cols % info(type).block_elements != 0) continue;
        const Weights weights(type, rows, cols, 3);
        const Packed packed(weights.view);
        const bool with_offset = packed.matrix.form == PackedForm::u8;
        const std::size_t ldx = cols + 5, ldy = rows + 2;
        for (const std::size_t tokens : {0, 1, 7, 8, 9, 33}) {
          const auto x = random_floats(std::max<std::size_t>(1, tokens) * ldx, 4);
          const Quantized q(x.data(), ldx, tokens, cols, pool, with_offset);
          std::vector<float> y(tokens * ldy + 1, -7.0F);
          multiply({weights.view, packed.matrix}, nullptr, 0, q.a, tokens, y.data(), ldy, pool);
          for (std::size_t t = 0; t < tokens; ++t) {
            for (std::size_t r = 0; r < rows; ++r) {
              double want = 0, magnitude = 0;
              for (std::size_t b = 0; b < cols / 32; ++b) {
                const double min = packed_min(packed.matrix, r, b);
                want += min * q.sum(t, b);
                for (std::size_t i = b * 32; i < b * 32 + 32; ++i) {
                  const double w = packed_value(packed.matrix, r, i);
                  want += (w - min) * q.value(t, i);
                  magnitude += std::abs(w * q.value(t, i));
                }
              }
              // u and min cancel in part: their own magnitude bounds the rounding.
              ASSERT_NEAR(y[t * ldy + r], want, 1e-5 * magnitude) << rows << ' ' << tokens;
            }
            ASSERT_EQ(y[t * ldy + rows], -7.0F) << "written beyond the row";
          }
        }
      }
    }
  }
}

// The greatest mins there are with the greatest sums, over the longest row.
TEST_P(Matmul, MinsAndSumsDoNotOverflow) {
  ThreadPool pool(1);
  const std::size_t cols = PackedMatrix::most_cols;
  const float value = -3.9999F;
  Weights weights(TensorType::f32, 1, cols, 3);
  for (std::size_t c = 0; c < cols; ++c) std::memcpy(&weights.storage[c * 4], &value, 4);
  const Packed packed(weights.view);
  ASSERT_NEAR(packed_min(packed.matrix, 0, 0), value, 1e-3);
  for (const std::size_t apart : {1, 7, 32, 1024, 2048}) {
    std::vector<float> x(cols);
    for (std::size_t c = 0; c < cols; ++c) x[c] = c / 32 % apart == 0 ? 1.0F : 0.0F;
    const Quantized q(x.data(), cols, 1, cols, pool);
    std::int32_t magnitudes = 0;
    for (std::size_t b = 0; b < cols / 32; ++b) magnitudes += std::abs(q.a.sums[b]);
    EXPECT_LE(magnitudes, QuantizedActivations::most_sums);
    float y = 0;
    multiply({weights.view, packed.matrix}, nullptr, 0, q.a, 1, &y, 1, pool);
    const double want = value * std::accumulate(x.begin(), x.end(), 0.0);
    EXPECT_NEAR(y, want, 0.005 * std::abs(want)) << apart;
  }
}

// Integers in, integers out: the dot products have to be exact, at their extremes too.
TEST_P(Matmul, Int8DotsAreExact) {
  ThreadPool pool(1);
  const std::size_t rows = 16, cols = 64, tokens = 5;
  for (const TensorType type : {TensorType::q8_0, TensorType::q5_0, TensorType::q4_0}) {
    for (const int kind : {0, 1, 2, 3}) {
      Weights weights(type, rows, cols, 5);
      const std::size_t block = info(type).block_bytes;
      std::mt19937 generator(kind);
      for (std::size_t at = 0; at < weights.storage.size(); at += block) {
        const std::uint16_t one = float_to_half(1.0F);
        std::memcpy(&weights.storage[at], &one, 2);
        for (std::size_t i = 2; i < block; ++i) {
          const unsigned choices[] = {0x80, 0x7F, 0x00, static_cast<unsigned>(generator())};
          weights.storage[at + i] =
              static_cast<std::byte>(kind < 3 ? choices[kind] : choices[generator() % 4]);
        }
      }
      std::vector<float> x(tokens * cols);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float v = static_cast<float>(static_cast<int>(generator() % 255) - 127);
        x[i] = i / cols == 0 ? 127.0F : i / cols == 1 ? -127.0F : i % 32 == 0 ? 127.0F : v;
      }
      const auto w = weights.values();
      const Packed packed(weights.view);
      const Quantized q(x.data(), cols, tokens, cols, pool);
      std::vector<float> y(tokens * rows);
      multiply({weights.view, packed.matrix}, nullptr, 0, q.a, tokens, y.data(), rows, pool);
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < rows; ++r) {
          double want = 0;
          for (std::size_t i = 0; i < cols; ++i) want += w[r * cols + i] * x[t * cols + i];
          ASSERT_EQ(y[t * rows + r], want) << "type " << info(type).name << " kind " << kind;
        }
      }
    }
  }
}

TEST_P(Matmul, ATokenDoesNotDependOnTheOthers) {
  ThreadPool pool(2);
  const std::size_t rows = 50, cols = 512, most = 37;
  const auto x = random_floats(most * cols, 6);
  for (const TensorType type :
       {TensorType::q4_0, TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q8_0,
        TensorType::q6_k, TensorType::f32, TensorType::bf16}) {
    const Weights weights(type, rows, cols, 7);
    WeightMatrix w{weights.view, {}};
    const Packed packed(weights.view, PackedForm::bf16);
    if (type != TensorType::f32) w.packed = packed.matrix;
    const bool with_offset = type == TensorType::q6_k;
    std::vector<float> alone(most * rows);
    for (std::size_t t = 0; t < most; ++t) {
      const Quantized q(&x[t * cols], cols, 1, cols, pool, with_offset);
      multiply(w, &x[t * cols], cols, q.a, 1, &alone[t * rows], rows, pool);
    }
    for (std::size_t tokens = 2; tokens <= most; ++tokens) {
      const std::size_t first = most - tokens;  // each token in every place of a tile
      const Quantized q(&x[first * cols], cols, tokens, cols, pool, with_offset);
      std::vector<float> y(tokens * rows);
      multiply(w, &x[first * cols], cols, q.a, tokens, y.data(), rows, pool);
      ASSERT_EQ(std::memcmp(y.data(), &alone[first * rows], y.size() * sizeof(float)), 0)
          << info(type).name << ", " << tokens << " tokens";
    }
  }
}

// Several products in one call, of different forms and sizes, one with what 8 bits lost.
TEST_P(Matmul, ProductsSideBySideAndTheirRestsEqualThoseAlone) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const std::size_t cols = 256, tokens = 21;
    const auto x = random_floats(tokens * cols, 10);
    const Quantized q(x.data(), cols, tokens, cols, pool);
    const Weights a(TensorType::q4_1, 40, cols, 11), b(TensorType::q8_0, 17, cols, 12),
        c(TensorType::q5_0, 3, cols, 13);
    const Packed pa(a.view), pb(b.view), pc(c.view);
    const WeightMatrix wa{a.view, pa.matrix}, wb{b.view, pb.matrix}, wc{c.view, pc.matrix};
    std::vector<float> ya(tokens * 40), yb(tokens * 17), yc(tokens * 3);
    auto alone_a = ya, alone_b = yb, alone_c = yc;
    multiply(wa, nullptr, 0, q.a, tokens, alone_a.data(), 40, pool);
    multiply(wb, nullptr, 0, q.a, tokens, alone_b.data(), 17, pool);
    multiply(wc, nullptr, 0, q.a, tokens, alone_c.data(), 3, pool);

    Quantized rest(x.data(), cols, tokens, cols, pool);
    quantize_tokens(x.data(), cols, tokens, cols, 0, tokens, q.a, &rest.a);
    const Product products[] = {
        {&wa, ya.data(), 40}, {&wb, yb.data(), 17, &rest.a}, {&wc, yc.data(), 3}};
    matmul(products, nullptr, 0, q.a, tokens, pool);
    EXPECT_EQ(ya, alone_a);
    EXPECT_EQ(yc, alone_c);
    const auto w = b.values();
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t r = 0; r < 17; ++r) {
        const std::size_t i = t * 17 + r;
        double want = 0, magnitude = 0;
        for (std::size_t k = 0; k < cols; ++k) {
          want += static_cast<double>(w[r * cols + k]) * x[t * cols + k];
          magnitude += std::abs(static_cast<double>(w[r * cols + k]) * x[t * cols + k]);
        }
        ASSERT_NEAR(yb[i], want, 6e-5 * magnitude) << t;
        ASSERT_NE(yb[i], alone_b[i]);
      }
    }
  }
}

// What the instruction sets may differ in: nothing between AVX2 and AVX-512, rounding elsewhere.
TEST(MatmulIsas, AgreeWithEachOther) {
  ThreadPool pool(1);
  const std::size_t rows = 33, cols = 1024, tokens = 9;
  const auto x = random_floats(tokens * cols, 8);
  std::vector<TensorType> types(std::begin(packed_types), std::end(packed_types));
  types.push_back(TensorType::bf16);
  for (const TensorType type : types) {
    const Weights weights(type, rows, cols, 9);
    const Packed packed(weights.view, PackedForm::bf16);
    std::vector<std::vector<float>> results;
    for (const Isa isa : supported_isas()) {
      force_isa(isa);
      const Quantized q(x.data(), cols, tokens, cols, pool, type == TensorType::q6_k);
      results.emplace_back(tokens * rows);
      multiply({weights.view, packed.matrix}, x.data(), cols, q.a, tokens, results.back().data(),
               rows, pool);
    }
    float largest = 0;
    for (const float v : results[0]) largest = std::max(largest, std::abs(v));
    for (std::size_t i = 0; i < tokens * rows; ++i) {
      for (std::size_t isa = 1; isa < results.size(); ++isa) {
        ASSERT_NEAR(results[isa][i], results[0][i], 1e-5 * largest);
      }
    }
    for (std::size_t isa = 2; isa < results.size(); ++isa) EXPECT_EQ(results[isa], results[1]);
  }
}

}  // namespace
}  // namespace plimsoll
