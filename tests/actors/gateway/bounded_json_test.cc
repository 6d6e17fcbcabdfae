#include "actors/gateway/bounded_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <string>

namespace plimsoll {
namespace {

using ::testing::HasSubstr;

std::string repeated(const std::string& head, const std::string& item, int count,
                     const std::string& tail) {
  std::string body = head;
  for (int i = 0; i < count; ++i) body += item;
  return body + tail;
}

TEST(BoundedJson, ReadsWhatTheLibraryReads) {
  for (
      const std::string body :
      {R"({"a":[1,-2,3.5,"x\u00e9",null,true,{"b":[]}],"c":{"d":{},"e":"long enough for the heap"}})",
       R"([[1,[2,[3]]],{"a":{"b":{"c":[{}]}}}])", R"("text")", "17", R"({"a":1,"a":[2]})"}) {
    const auto parsed = parse_bounded_json(body, {});
    ASSERT_TRUE(parsed) << body;
    EXPECT_EQ(*parsed, nlohmann::json::parse(body));
  }
}

TEST(BoundedJson, SaysWhereItIsNone) {
  const auto broken = parse_bounded_json(R"({"a":1,})", {});
  ASSERT_FALSE(broken);
  EXPECT_THAT(broken.error().message, HasSubstr("error at byte 8"));
  EXPECT_THAT(parse_bounded_json("[1e999]", {}).error().message, HasSubstr("out of range"));
  EXPECT_FALSE(parse_bounded_json("", {}));
  EXPECT_FALSE(parse_bounded_json("\"\xff\"", {}));
}

TEST(BoundedJson, DepthAndCountAreBounded) {
  EXPECT_TRUE(parse_bounded_json(std::string(64, '[') + std::string(64, ']'), {}));
  EXPECT_THAT(parse_bounded_json(std::string(1 << 20, '['), {}).error().message,
              HasSubstr("deeper than 64"));
  EXPECT_THAT(parse_bounded_json(repeated("[0", ",0", 1 << 20, "]"), {}).error().message,
              HasSubstr("more than 1048576"));
}

// No shape of a body makes more of a tree than was asked for before.
TEST(BoundedJson, AsksForAllThatItTakes) {
  const std::string long_text(100'000, 'x');
  const std::string medium(33, 'm');
  for (const std::string body :
       {repeated("[0", ",0", 100'000, "]"), repeated("[[]", ",[]", 50'000, "]"),
        repeated("[{}", ",{}", 50'000, "]"), repeated(R"([{"a":1})", R"(,{"a":1})", 30'000, "]"),
        repeated("[\"\"", ",\"\"", 50'000, "]"),
        repeated("[\"" + medium + "\"", ",\"" + medium + "\"", 20'000, "]"),
        "{\"prompt\":\"" + long_text + "\"}", "[\"" + long_text + "\",\"" + long_text + "\"]",
        repeated("[[[[[[1", "],[1", 40'000, "]]]]]]")}) {
    std::uint64_t asked = 0;
    const auto before = mallinfo2().uordblks + mallinfo2().hblkhd;
    const auto parsed = parse_bounded_json(body, [&](std::uint64_t bytes) {
      asked = bytes;
      return true;
    });
    const auto after = mallinfo2().uordblks + mallinfo2().hblkhd;
    ASSERT_TRUE(parsed) << body.substr(0, 20) << parsed.error().message;
    EXPECT_LE(after - before + body.size(), asked) << body.substr(0, 20);
    EXPECT_LE(asked, 100 * body.size()) << body.substr(0, 20);
  }
}

TEST(BoundedJson, ARefusalEndsItAtOnce) {
  std::uint64_t most = 0;
  const auto refused =
      parse_bounded_json(repeated("[0", ",0", 100'000, "]"), [&](std::uint64_t bytes) {
        most = bytes;
        return bytes < 1'000'000;
      });
  ASSERT_FALSE(refused);
  EXPECT_LT(most, 1'100'000U);
}

}  // namespace
}  // namespace plimsoll
