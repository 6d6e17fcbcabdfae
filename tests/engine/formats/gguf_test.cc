#include "engine/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/engine/formats/gguf_builder.h"

namespace plimsoll {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t f32 = 0;
constexpr std::uint32_t q8_0 = 8;

GgufBuilder good_file() {
  GgufBuilder file(3, 2, 4);
  file.text_value("general.architecture", "llama").uint_value("llama.block_count", 7);
  file.string("names").number(std::uint32_t{9}).number(std::uint32_t{8}).number(std::uint64_t{2});
  file.string("a").string("bc");
  file.string("numbers").number(std::uint32_t{9}).number(std::uint32_t{5}).number(std::uint64_t{2});
  file.number(std::int32_t{-1}).number(std::int32_t{5});
  file.tensor("first", {4, 2}, f32, 0).tensor("second", {32}, q8_0, 32).pad().data(32 + 34);
  return file;
}

Error refusal(const GgufBuilder& file) {
  auto parsed = GgufFile::parse(file.bytes());
  return parsed ? Error(ErrorCode::internal, "it was accepted") : parsed.error();
}

TEST(GgufTest, ReadsMetadataAndTensors) {
  const auto file = good_file();
  const auto parsed = GgufFile::parse(file.bytes());
  ASSERT_TRUE(parsed) << to_string(parsed.error());
  EXPECT_EQ(parsed->string("general.architecture"), "llama");
  EXPECT_EQ(parsed->uint("llama.block_count"), 7U);
  EXPECT_EQ(parsed->number("llama.block_count"), 7.0);
  EXPECT_EQ(parsed->string("llama.block_count"), std::nullopt) << "of another type";
  EXPECT_THAT(parsed->strings("names"), ::testing::ElementsAre("a", "bc"));
  EXPECT_THAT(parsed->ints("numbers"), ::testing::ElementsAre(-1, 5));
  const TensorView* first = parsed->find_tensor("first");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->rows(), 2U);
  EXPECT_EQ(first->cols(), 4U);
  EXPECT_EQ(parsed->find_tensor("second")->data - first->data, 32);
  EXPECT_EQ(parsed->find_tensor("second")->bytes, 34U);
  EXPECT_EQ(parsed->find_tensor("third"), nullptr);
}

TEST(GgufTest, EveryTruncationIsRefused) {
  const auto whole = good_file().bytes();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    // A copy of exactly this size, so that a sanitizer sees one byte too many.
    const std::vector<std::byte> part(whole.begin(),
                                      whole.begin() + static_cast<std::ptrdiff_t>(size));
    const auto parsed = GgufFile::parse(part);
    ASSERT_FALSE(parsed) << size;
    EXPECT_EQ(parsed.error().code, ErrorCode::malformed);
    EXPECT_LE(parsed.error().offset, size);
  }
}

TEST(GgufTest, NoChangedByteBreaksTheParser) {
  const auto whole = good_file().bytes();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x80, 0xFF}) {
      auto changed = whole;
      changed[at] ^= static_cast<std::byte>(flip);
      const auto parsed = GgufFile::parse(changed);
      if (!parsed) continue;
      for (const auto& tensor : parsed->tensors()) {  // what is accepted can be read
        ASSERT_GE(tensor.data, changed.data());
        ASSERT_LE(tensor.data + tensor.bytes, changed.data() + changed.size());
      }
    }
  }
}

TEST(GgufTest, MistakesAreNamed) {
  EXPECT_THAT(refusal(GgufBuilder(1)).message, HasSubstr("version 1"));
  EXPECT_EQ(refusal(GgufBuilder(1)).code, ErrorCode::unsupported);
  EXPECT_THAT(refusal(GgufBuilder(0x03000000)).message, HasSubstr("big-endian"));
  EXPECT_THAT(refusal(GgufBuilder(3, 1ULL << 40)).message, HasSubstr("tensors are over the limit"));
  EXPECT_THAT(refusal(GgufBuilder(3, 0, ~0ULL)).message, HasSubstr("metadata entries"));
  EXPECT_THAT(refusal(GgufBuilder(3, 0, 1).number(~std::uint64_t{0})).message, HasSubstr("bytes"));
  EXPECT_THAT(refusal(GgufBuilder(3, 0, 2).uint_value("k", 1).uint_value("k", 2)).message,
              HasSubstr("'k' is there twice"));
  EXPECT_THAT(refusal(GgufBuilder(3, 0, 1).uint_value("general.alignment", 24)).message,
              HasSubstr("alignment is 24"));
  EXPECT_THAT(refusal(GgufBuilder(3, 0, 1).string("k").number(std::uint32_t{99})).message,
              HasSubstr("99"));
  // An array whose count would need more memory than there is.
  EXPECT_THAT(refusal(GgufBuilder(3, 0, 1)
                          .string("k")
                          .number(std::uint32_t{9})
                          .number(std::uint32_t{8})
                          .number(std::uint64_t{1} << 60))
                  .message,
              HasSubstr("does not fit"));
  EXPECT_EQ(refusal(GgufBuilder(3, 0, 1)
                        .string("k")
                        .number(std::uint32_t{9})
                        .number(std::uint32_t{9})
                        .number(std::uint64_t{1}))
                .code,
            ErrorCode::unsupported);
}

TEST(GgufTest, TensorMistakesAreNamed) {
  const auto with = [](std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset) {
    GgufBuilder file(3, 1);
    file.tensor("t", std::move(dims), type, offset).pad().data(64);
    return refusal(file);
  };
  EXPECT_THAT(with({16}, f32, 0).message, HasSubstr("it was accepted"));
  EXPECT_THAT(with({17}, f32, 0).message, HasSubstr("'t' needs bytes 0 to 68"));
  EXPECT_THAT(with({1}, f32, 96).message, HasSubstr("needs bytes 96"));
  EXPECT_THAT(with({1}, f32, ~0ULL - 31).message, HasSubstr("needs bytes"));
  EXPECT_THAT(with({1}, f32, 4).message, HasSubstr("no multiple of the alignment"));
  EXPECT_THAT(with({31}, q8_0, 0).message, HasSubstr("block of 32"));
  EXPECT_THAT(with({0}, f32, 0).message, HasSubstr("impossible dimension 0"));
  EXPECT_THAT(with({1ULL << 32, 1ULL << 32}, f32, 0).message, HasSubstr("impossible dimension"));
  EXPECT_THAT(with({}, f32, 0).message, HasSubstr("0 dimensions"));
  EXPECT_EQ(with({1}, 999, 0).code, ErrorCode::unsupported);
  EXPECT_THAT(with({1}, 999, 0).message, HasSubstr("'t' has the type number 999"));
  GgufBuilder overlap(3, 2);
  overlap.tensor("a", {16}, f32, 0).tensor("b", {4}, f32, 32).pad().data(64);
  EXPECT_THAT(refusal(overlap).message, HasSubstr("'a' and 'b' overlap"));
  GgufBuilder twice(3, 2);
  twice.tensor("a", {4}, f32, 0).tensor("a", {4}, f32, 32).pad().data(64);
  EXPECT_THAT(refusal(twice).message, HasSubstr("'a' is there twice"));
}

TEST(GgufTest, FilesThatAreNoModels) {
  EXPECT_EQ(GgufFile::open("/no/such/file").error().code, ErrorCode::not_found);
  EXPECT_EQ(GgufFile::open("/").error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(refusal(GgufBuilder()).message, HasSubstr("accepted"))
      << "no tensors is odd but right";
}

}  // namespace
}  // namespace plimsoll
