#include "engine/kernels/cpu/packed.h"

#include <cmath>

#include "tests/engine/kernels/weights.h"

namespace plimsoll {
namespace {

bool keeps_quants(TensorType type) {
  return type != TensorType::q6_k && type != TensorType::f32 && type != TensorType::f16 &&
         type != TensorType::bf16;
}

TEST(Packed, FormsFollowTheTypes) {
  for (const TensorType type : weight_types) {
    const Weights weights(type, 2, 256, 1);
    PackedForm expected = PackedForm::u8;
    switch (type) {
      case TensorType::q4_0: expected = PackedForm::c4; break;
      case TensorType::q4_1:
      case TensorType::q4_k: expected = PackedForm::u4; break;
      case TensorType::q5_0: expected = PackedForm::c5; break;
      case TensorType::q5_1:
      case TensorType::q5_k: expected = PackedForm::u5; break;
      case TensorType::q8_0: expected = PackedForm::c8; break;
      default: break;
    }
    EXPECT_EQ(packed_form(weights.view), expected) << info(type).name;
  }
  EXPECT_EQ(packed_form(Weights(TensorType::f32, 2, 48, 1).view), PackedForm::none);
  TensorView none;
  EXPECT_EQ(packed_form(none), PackedForm::none);
  none = Weights(TensorType::f32, 2, 64, 1).view;
  none.type = TensorType::i64;
  EXPECT_EQ(packed_form(none), PackedForm::none);
}

// Against dequantize(): the same weights, but for the rounding that packed.h allows.
TEST(Packed, HoldsTheWeights) {
  for (const TensorType type : weight_types) {
    for (const float magnitude : {0.02F, 1e-6F, 1000.0F}) {
      for (const std::size_t rows : {1, 16, 19}) {
        const std::size_t cols = 512;
        const Weights weights(type, rows, cols, 11, magnitude);
        const Packed packed(weights.view);
        const auto w = weights.values();
        double squares = 0, errors = 0;
        for (std::size_t r = 0; r < rows; ++r) {
          double row_greatest = 0;
          for (std::size_t b = 0; b < cols / 32; ++b) {
            row_greatest = std::max(row_greatest, std::abs(packed_min(packed.matrix, r, b)));
          }
          for (std::size_t c = 0; c < cols; ++c) {
            const auto block =
                std::minmax_element(&w[r * cols + c / 32 * 32], &w[r * cols + c / 32 * 32] + 32);
            const double range = static_cast<double>(*block.second) - *block.first;
            const double greatest = std::max(std::abs(*block.first), std::abs(*block.second));
            const double error = packed_value(packed.matrix, r, c) - w[r * cols + c];
            // A scale rounded by at most 2^-12 of itself, a min by 2^-14 of the row's greatest;
            // then half a step.
            const double scales =
                (range + greatest) * std::ldexp(1.0, -11) + row_greatest * std::ldexp(1.0, -13);
            const double steps = keeps_quants(type) ? 0 : range / 255 * 0.51;
            ASSERT_NEAR(error, 0, scales + steps + 1e-30) << info(type).name << ' ' << magnitude;
            errors += error * error;
            squares += static_cast<double>(w[r * cols + c]) * w[r * cols + c];
          }
        }
        EXPECT_LT(std::sqrt(errors / squares), keeps_quants(type) ? 4e-4 : 8e-3) << info(type).name;
      }
    }
  }
}

TEST(Packed, FloatsAreRoundedToTheNearestBfloat16) {
  Weights weights(TensorType::f32, 3, 64, 1);
  const float at[] = {1.0F, 1.00390625F, 1.01171875F, -1.0038F, 3.3e38F, NAN, -0.0F, 1e-40F};
  const float to[] = {1.0F, 1.0F, 1.015625F, -1.0F, 3.296485e38F, NAN, -0.0F, 9.18355e-41F};
  std::memcpy(&weights.storage[64 * 4], at, sizeof(at));  // of the second row
  const Packed packed(weights.view, PackedForm::bf16);
  for (std::size_t c = 0; c < std::size(at); ++c) {
    const double got = packed_value(packed.matrix, 1, c);
    if (std::isnan(to[c])) {
      EXPECT_TRUE(std::isnan(got));
    } else {
      EXPECT_NEAR(got, to[c], std::abs(to[c]) * 1e-5) << at[c];
    }
  }
  const auto w = weights.values();
  for (std::size_t i = 128; i < 192; ++i) {
    EXPECT_NEAR(packed_value(packed.matrix, 2, i - 128), w[i], std::abs(w[i]) / 256);
  }
  EXPECT_EQ(packed_value(packed.matrix, 3, 5), 0.0) << "beyond the last row";
  // Whatever the file quantized stays that.
  EXPECT_EQ(packed_form(Weights(TensorType::q4_1, 2, 64, 1).view, PackedForm::bf16),
            PackedForm::u4);
  EXPECT_EQ(packed_form(Weights(TensorType::q6_k, 2, 256, 1).view, PackedForm::bf16),
            PackedForm::u8);
}

// All but mins, of which what is below 2^-13 of the row's greatest is lost.
TEST(Packed, FilesWithHalfScalesAreHeldExactly) {
  for (const TensorType type :
       {TensorType::q4_0, TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q8_0}) {
    const Weights weights(type, 20, 96, 12);
    const Packed packed(weights.view);
    const auto w = weights.values();
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t row = i / 96;
      double greatest = 0;  // not less than any scale or min of the row
      for (std::size_t c = 0; c < 96; ++c) {
        greatest = std::max<double>(greatest, std::abs(w[row * 96 + c]));
        greatest = std::max(greatest, std::abs(packed_min(packed.matrix, row, c / 32)));
      }
      const double min_rounding = is_centred(packed.matrix.form) ? 0 : greatest * 0x1p-13;
      ASSERT_NEAR(packed_value(packed.matrix, row, i % 96), w[i],
                  1e-6 * std::abs(w[i]) + 1e-7 + min_rounding)
          << info(type).name;
    }
  }
}

TEST(Packed, ZerosAndConstantsAndExtremes) {
  Weights weights(TensorType::f32, 5, 64, 1);
  const float constants[] = {0.0F, -3.25F, 1e-40F, 3e38F, -1e-30F};
  for (std::size_t r = 0; r < 5; ++r) {
    for (std::size_t c = 0; c < 64; ++c) {
      std::memcpy(&weights.storage[(r * 64 + c) * 4], &constants[r], 4);
    }
  }
  const Packed packed(weights.view);
  for (std::size_t r = 0; r < 5; ++r) {
    ASSERT_NEAR(packed_value(packed.matrix, r, 40), constants[r],
                std::abs(constants[r]) * 5e-4 + 0x1p-126);  // half the least factor
  }
  for (std::size_t r = 5; r < 16; ++r) EXPECT_EQ(packed_value(packed.matrix, r, 3), 0.0);
}

}  // namespace
}  // namespace plimsoll
