// Token ids against the reference implementations, on texts in many scripts.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

fs::path models() {
  if (const char* set = std::getenv("PLIMSOLL_MODELS")) return set;
  return fs::path(std::getenv("HOME")) / ".cache/plimsoll/models";
}

std::string text_of(const Json& row) {
  if (row.contains("text")) return row["text"];
  std::string bytes;
  const std::string hex = row["hex"];
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

class GoldenTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {
 protected:
  void SetUp() override {
    const fs::path file = models() / GetParam().second;
    if (!fs::exists(file)) GTEST_SKIP() << file << " is not there; run `plimsoll pull --all`";
    if (file.extension() == ".json") {
      tokenizer_ = std::move(make_tokenizer(file).value());
    } else {
      tokenizer_ = std::move(make_tokenizer(GgufFile::open(file).value()).value());
    }
    std::ifstream in(std::string(PLIMSOLL_TEST_DATA) + "/engine/tokenizer/golden/" +
                     GetParam().first + ".json");
    golden_ = Json::parse(in);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
  Json golden_;
};

TEST_P(GoldenTest, IdsEqualTheReference) {
  const bool add_special = std::string(GetParam().first) == "minilm";
  int wrong = 0;
  for (const auto& row : golden_["cases"]) {
    const auto ids = tokenizer_->encode(text_of(row), {add_special, false}).value();
    if (Json(ids) != row["ids"] && ++wrong <= 10) {
      ADD_FAILURE() << row.dump() << "\n  ours: " << Json(ids).dump();
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << golden_["cases"].size();
  EXPECT_GT(golden_["cases"].size(), 2000U);
}

TEST_P(GoldenTest, DecodingGivesTheTextBack) {
  if (std::string(GetParam().first) == "minilm") return;  // WordPiece does not keep the text;
  for (const auto& row : golden_["cases"]) {
    const std::string text = replace_ill_formed(text_of(row));
    // SentencePiece writes a space as U+2581, so that character itself comes back as a space.
    if (text.find("\u2581") != std::string::npos) continue;
    const auto ids = tokenizer_->encode(text, {false, false}).value();
    ASSERT_EQ(tokenizer_->decode(ids, false), text);
    Detokenizer stream(*tokenizer_);
    std::string pieces;
    for (const TokenId id : ids) {
      pieces += stream.push(id);
      ASSERT_TRUE(is_valid_utf8(pieces));
    }
    ASSERT_EQ(pieces + stream.finish(), text);
  }
}

TEST_P(GoldenTest, SpecialTokensAreReadInTrustedTextOnly) {
  const TokenId eos = tokenizer_->eos();
  const std::string name = tokenizer_->token_bytes(eos);
  const auto count = [&](const std::vector<TokenId>& ids) {
    return std::count(ids.begin(), ids.end(), eos);
  };
  const std::string text = "a " + name + " b";
  EXPECT_EQ(count(tokenizer_->encode(text, {false, false}).value()), 0);
  EXPECT_EQ(count(tokenizer_->encode(text, {false, true}).value()), 1);
  const TextPart parts[] = {{name, true}, {text, false}, {name, true}};
  EXPECT_EQ(count(tokenizer_->encode_parts(parts, false).value()), 2);
  // A name that is cut in two by a part's border is no special token.
  const TextPart cut[] = {{std::string_view(name).substr(0, 3), true},
                          {std::string_view(name).substr(3), false}};
  EXPECT_EQ(count(tokenizer_->encode_parts(cut, false).value()), 0);
  EXPECT_TRUE(tokenizer_->is_special(eos));
}

TEST_P(GoldenTest, NoTextBecomesAControlToken) {
  const bool brackets = std::string(GetParam().first) == "minilm";  // [UNK] stands for a word there
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = "a" + std::string(1, static_cast<char>(byte)) + "b";
    const auto ids = tokenizer_->encode(text, {false, false}).value();
    for (const TokenId id : ids) {
      EXPECT_TRUE(!tokenizer_->is_special(id) || brackets) << "byte " << byte << " gave " << id;
      EXPECT_FALSE(tokenizer_->is_end_of_generation(id)) << "byte " << byte;
    }
  }
}

TEST_P(GoldenTest, LongRunsTakeNoQuadraticTime) {
  for (const char* unit : {"a", " ", "\n", "ab", "é", "1", "🙂", "x ", "\xCC\x96\xCC\x81"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    const std::clock_t start = std::clock();  // the processor's time: others use it, too
    ASSERT_TRUE(tokenizer_->encode(text, {false, false}));
    const double took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(took, 5.0) << "1 MiB of '" << unit << "'";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, GoldenTest,
    ::testing::Values(std::pair{"smollm2", "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"},
                      std::pair{"gemma3", "gemma-3-270m/gemma-3-270m-q4_k_m.gguf"},
                      std::pair{"minilm", "all-minilm-l6-v2/tokenizer.json"}),
    [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace plimsoll
