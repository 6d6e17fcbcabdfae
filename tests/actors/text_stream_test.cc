#include "actors/text_stream.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/tokenizer/utf8.h"
#include "tests/actors/testing.h"

namespace plimsoll {
namespace {

using testing::ByteTokenizer;

struct Run {
  std::string text;
  std::uint32_t tokens = 0;
  bool stopped = false;
};

// The stream's text, and that each piece on its own is valid UTF-8.
Run run(const std::vector<TokenId>& ids, const std::vector<std::string>& stops) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, stops);
  Run out;
  const auto take = [&](const TextStream::Piece& piece) {
    EXPECT_TRUE(is_valid_utf8(piece.text));
    out.text += piece.text;
    out.tokens += piece.tokens;
    out.stopped = piece.stopped;
  };
  for (const TokenId id : ids) {
    take(stream.push(id));
    if (out.stopped) return out;
  }
  take(stream.finish());
  return out;
}

std::vector<TokenId> bytes(std::string_view text) {
  return *ByteTokenizer().encode(text, {.parse_special = false});
}

TEST(TextStream, PassesTextThrough) {
  const auto r = run(bytes("größer 漢字 🎉"), {});
  EXPECT_EQ(r.text, "größer 漢字 🎉");
  EXPECT_EQ(r.tokens, bytes("größer 漢字 🎉").size());
}

TEST(TextStream, AnUnfinishedCharacterIsReplacedAtTheEnd) {
  EXPECT_EQ(run({'a', 0xE6, 0xBC}, {}).text, "a\xEF\xBF\xBD");
}

TEST(TextStream, SpecialTokensHaveNoText) {
  const auto r = run({'a', ByteTokenizer::end, 'b'}, {});
  EXPECT_EQ(r.text, "ab");
  EXPECT_EQ(r.tokens, 3U);
}

TEST(TextStream, StopsAcrossTokenBorders) {
  // "STOP" lies in two tokens that both have more: "xST" and "OPx".
  const auto ids = *ByteTokenizer().encode("abxSTOPxyz", {});
  ASSERT_EQ(ids.size(), 6U);
  const auto r = run(ids, {"STOP"});
  EXPECT_TRUE(r.stopped);
  EXPECT_EQ(r.text, "abx");
  EXPECT_EQ(r.tokens, 3U) << "a, b, and the token that the stop string begins within";
}

TEST(TextStream, StopsInMultiByteCharacters) {
  EXPECT_EQ(run(bytes("eins→zwei"), {"→"}).text, "eins");
  const auto near = run(bytes("eins⇒zwei"), {"→"});  // shares its first byte
  EXPECT_FALSE(near.stopped);
  EXPECT_EQ(near.text, "eins⇒zwei");
}

TEST(TextStream, HoldsBackOnlyWhatMayBecomeAStop) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {"\n\n"});
  EXPECT_EQ(stream.push('a').text, "a");
  EXPECT_EQ(stream.push('\n').text, "");
  EXPECT_EQ(stream.push('b').text, "\nb");
  EXPECT_EQ(stream.push('\n').text, "");
  const auto last = stream.push('\n');
  EXPECT_TRUE(last.stopped);
  EXPECT_EQ(last.text, "");
}

TEST(TextStream, ReleasesAHeldBeginningThatCameToNothing) {
  const auto r = run(bytes("ababac"), {"abac "});
  EXPECT_FALSE(r.stopped);
  EXPECT_EQ(r.text, "ababac");
  EXPECT_EQ(r.tokens, 6U);
}

TEST(TextStream, TheFirstToBeCompleteWins) {
  EXPECT_EQ(run(bytes("xabcd"), {"abcd", "bc"}).text, "xa");
  EXPECT_EQ(run(bytes("xabc"), {"bc", "abc"}).text, "x") << "of two that end together, the longer";
}

// Against the definition: the shortest beginning of the text that ends in a stop string, without
// it. Whatever the borders between tokens.
TEST(TextStream, AgreesWithTheDefinition) {
  std::mt19937 random(5);
  const auto text_of = [&](std::size_t most) {
    std::string text;
    const std::size_t length = 1 + random() % most;
    for (std::size_t i = 0; i < length; ++i) text += random() % 3 == 0 ? "é" : "a";
    return text;
  };
  for (int i = 0; i < 3000; ++i) {
    const std::string text = text_of(12);
    std::vector<std::string> stops;
    for (unsigned n = random() % 4; n > 0; --n) stops.push_back(text_of(4));
    std::string expected = text;
    bool stopped = false;
    for (std::size_t end = 1; end <= text.size() && !stopped; ++end) {
      std::size_t longest = 0;
      for (const auto& stop : stops) {
        if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
      }
      if (longest > 0) {
        expected = text.substr(0, end - longest);
        stopped = true;
      }
    }
    const auto r = run(bytes(text), stops);
    ASSERT_EQ(r.text, expected) << text;
    ASSERT_EQ(r.stopped, stopped);
  }
}

}  // namespace
}  // namespace plimsoll
