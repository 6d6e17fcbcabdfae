// Texts of any bytes through each algorithm, with small vocabularies made here: encoding never
// fails, and decoding gives well-formed text back.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"
#include "tests/engine/formats/gguf_builder.h"

namespace {

using namespace plimsoll;

void strings(GgufBuilder& file, std::string_view key, const std::vector<std::string>& values) {
  file.string(key).number(std::uint32_t{9}).number(std::uint32_t{8});
  file.number(std::uint64_t{values.size()});
  for (const auto& value : values) file.string(value);
}

std::unique_ptr<Tokenizer> byte_level() {
  // GPT-2's alphabet for the 256 bytes, some merges, a special token.
  std::vector<std::string> tokens;
  for (int b = 0, next = 256; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    std::string character;
    append_utf8(character, printable ? static_cast<char32_t>(b) : static_cast<char32_t>(next++));
    tokens.push_back(character);
  }
  tokens.insert(tokens.end(), {"th", "the", "in", "aa", "aaaa", "<|end|>"});
  static GgufBuilder file(3, 0, 4);
  file.text_value("tokenizer.ggml.model", "gpt2").text_value("tokenizer.ggml.pre", "llama-bpe");
  strings(file, "tokenizer.ggml.tokens", tokens);
  strings(file, "tokenizer.ggml.merges", {"t h", "th e", "i n", "a a", "aa aa"});
  return std::move(make_tokenizer(GgufFile::parse(file.bytes()).value()).value());
}

std::unique_ptr<Tokenizer> sentencepiece() {
  std::vector<std::string> tokens = {"<unk>"};
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(b));
    tokens.emplace_back(name);
  }
  tokens.insert(tokens.end(), {"\xE2\x96\x81", "a", "b", "ab", "aba",
                               "\xE2\x96\x81"
                               "a",
                               "\n", "\n\n"});
  static GgufBuilder file(3, 0, 4);
  file.text_value("tokenizer.ggml.model", "llama");
  strings(file, "tokenizer.ggml.tokens", tokens);
  file.string("tokenizer.ggml.scores").number(std::uint32_t{9}).number(std::uint32_t{6});
  file.number(std::uint64_t{tokens.size()});
  for (std::size_t i = 0; i < tokens.size(); ++i) file.number(-static_cast<float>(i));
  file.string("tokenizer.ggml.add_space_prefix").number(std::uint32_t{7}).number(std::uint8_t{0});
  return std::move(make_tokenizer(GgufFile::parse(file.bytes()).value()).value());
}

void check(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto bytes = byte_level();
  static const auto pieces = sentencepiece();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string clean = replace_ill_formed(text);
  check(is_valid_utf8(clean));
  check(bytes->decode(bytes->encode(text, {false, false}).value(), false) == clean);
  check(is_valid_utf8(pieces->decode(pieces->encode(text, {true, true}).value(), false)));
  const TextPart parts[] = {{text.substr(0, size / 2), true}, {text.substr(size / 2), false}};
  check(bytes->encode_parts(parts, true).has_value());
  return 0;
}
