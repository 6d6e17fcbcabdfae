#include "engine/formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace plimsoll {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

std::string refusal(const std::string& header, std::size_t data_bytes) {
  const auto bytes = file_of(header, data_bytes);
  const auto parsed = SafetensorsFile::parse(bytes);
  return parsed ? "accepted" : parsed.error().message;
}

constexpr const char* good = R"({"__metadata__":{"format":"pt"},)"
                             R"("b":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},)"
                             R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";

TEST(SafetensorsTest, ReadsTensors) {
  const auto bytes = file_of(good, 24);
  const auto parsed = SafetensorsFile::parse(bytes);
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->tensors().size(), 2U);
  const TensorView* a = parsed->find_tensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->rows(), 2U);
  EXPECT_EQ(a->cols(), 2U);
  EXPECT_EQ(parsed->find_tensor("b")->type, TensorType::i64);
}

TEST(SafetensorsTest, MistakesAreNamed) {
  EXPECT_THAT(refusal(good, 23), HasSubstr("lies at 16 to 24"));
  EXPECT_THAT(refusal(good, 25), HasSubstr("after the last tensor"));
  EXPECT_THAT(refusal("not json", 0), HasSubstr("no JSON object"));
  EXPECT_THAT(refusal("[]", 0), HasSubstr("no JSON object"));
  EXPECT_THAT(refusal(std::string(200, '['), 0), HasSubstr("nested too deep"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("F8"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
              HasSubstr("shape and dtype ask for 8"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
              HasSubstr("impossible shape"));
  EXPECT_THAT(
      refusal(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4),
      HasSubstr("impossible shape"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4),
              HasSubstr("lies at 4 to 0"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
              HasSubstr("hole"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                      4),
              HasSubstr("overlaps"));
  EXPECT_THAT(refusal(R"({"a":5})", 0), HasSubstr("needs dtype"));
  std::vector<std::byte> huge(8, std::byte{0xFF});
  EXPECT_FALSE(SafetensorsFile::parse(huge));
  EXPECT_FALSE(SafetensorsFile::parse({}));
}

TEST(SafetensorsTest, NoChangedByteBreaksTheParser) {
  const auto whole = file_of(good, 24);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x08, 0x80}) {
      auto changed = whole;
      changed[at] ^= static_cast<std::byte>(flip);
      const auto parsed = SafetensorsFile::parse(changed);
      if (!parsed) continue;
      for (const auto& tensor : parsed->tensors()) {
        ASSERT_LE(tensor.data + tensor.bytes, changed.data() + changed.size());
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll
