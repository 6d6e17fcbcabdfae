#include "engine/quantize/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

namespace plimsoll {
namespace {

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(DequantizeTest, EqualsTheReferenceBitForBit) {
  std::ifstream in(PLIMSOLL_TEST_DATA "/engine/quantize/golden/blocks.json");
  const auto golden = nlohmann::json::parse(in);
  ASSERT_EQ(golden["types"].size(), 8U);
  for (const auto& [name, entry] : golden["types"].items()) {
    const auto type = static_cast<TensorType>(entry["type"].get<std::uint32_t>());
    EXPECT_EQ(info(type).name, name);
    const auto blocks = from_hex(entry["blocks"]);
    const auto expected = from_hex(entry["floats"]);
    std::vector<float> values(expected.size() / sizeof(float));
    ASSERT_EQ(blocks.size() / info(type).block_bytes * info(type).block_elements, values.size());
    dequantize(type, blocks.data(), values.data(), values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      float want = 0;
      std::memcpy(&want, expected.data() + i * sizeof want, sizeof want);
      ASSERT_EQ(values[i], want) << name << " element " << i;
    }
  }
}

TEST(DequantizeTest, HalvesRoundTripAndRoundToNearestEven) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      ASSERT_EQ(float_to_half(value), half);
    }
  }
  EXPECT_EQ(float_to_half(1.0F + 0x1p-11F), 0x3C00);  // a tie goes to the even one
  EXPECT_EQ(float_to_half(1.0F + 3 * 0x1p-11F), 0x3C02);
  EXPECT_EQ(float_to_half(65519.0F), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_half(0x1p-25F), 0x0000);  // half of the smallest: to even
  EXPECT_EQ(float_to_half(std::nextafter(0x1p-25F, 1.0F)), 0x0001);
}

TEST(DequantizeTest, FloatTypesAreExact) {
  const float values[] = {1.5F, -0.0F, 3.0e38F};
  std::uint16_t brain[3];
  for (int i = 0; i < 3; ++i) {
    brain[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(values[i]) >> 16);
  }
  float out[3];
  dequantize(TensorType::bf16, reinterpret_cast<const std::byte*>(brain), out, 3);
  EXPECT_EQ(out[0], 1.5F);
  EXPECT_TRUE(std::signbit(out[1]));
  EXPECT_NEAR(out[2], 3.0e38F, 0.02e38F);
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.0F), 0x3F80);
  EXPECT_EQ(float_to_bf16(1.0F + 0x1p-8F), 0x3F80);  // a tie goes to the even one
  EXPECT_EQ(float_to_bf16(1.0F + 3 * 0x1p-8F), 0x3F82);
  EXPECT_EQ(float_to_bf16(-std::nextafter(1.0F + 0x1p-8F, 2.0F)), 0xBF81);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7F80);  // infinity
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::quiet_NaN()) & 0x7FC0, 0x7FC0);
}

}  // namespace
}  // namespace plimsoll
