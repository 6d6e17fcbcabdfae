// Splits a text into the words that byte-level BPE merges within, by the patterns that the models
// were trained with.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll {

// The published patterns, as tokenizer.json files have them.
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view digit_pattern = R"(\p{N})";

// What a name in tokenizer.ggml.pre stands for. GGUF has no other keys for these.
struct PretokenizerFamily {
  std::vector<std::string_view> patterns;  // each splits the pieces of the one before
  bool whole_words = false;  // a word that is a token is that token, whatever the merges say
  bool compose = false;      // texts are brought to NFC first
  bool add_bos = false;      // where the file does not say
};
// Errors: unsupported, with the name.
Result<PretokenizerFamily> find_pretokenizer_family(std::string_view name);

class Pretokenizer {
 public:
  // Patterns are of those above, whose time is linear in the text.
  explicit Pretokenizer(std::span<const std::string_view> patterns);
  Pretokenizer(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  // Calls word() for consecutive stretches that cover `text`, which is well-formed UTF-8.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

  std::uint64_t memory_bytes() const;

 private:
  struct Pattern;
  class Splitter;
  std::vector<std::unique_ptr<Pattern>> stages_;
};

}  // namespace plimsoll
