// A model's text side without a model: a tokenizer of bytes, and a chat template.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/models/model.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace plimsoll::pretend {

// Ids 0..255 are bytes; then special tokens; then merged tokens, for borders within stop strings.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr TokenId start = 256, end = 257, first_merged = 258;

  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const override {
    const TextPart part{text, options.parse_special};
    return encode_parts({&part, 1}, options.add_special);
  }
  Result<std::vector<TokenId>> encode_parts(std::span<const TextPart> parts,
                                            bool add_special) const override {
    std::vector<TokenId> out;
    (void)add_special;  // there is no BOS
    for (const auto& part : parts) {
      for (std::size_t i = 0; i < part.text.size();) {
        const auto rest = part.text.substr(i);
        TokenId id = static_cast<unsigned char>(rest[0]);
        std::size_t length = 1;
        for (std::size_t n = 0; n < names.size(); ++n) {
          const bool special = n < 2;
          if ((!special || part.parse_special) && rest.starts_with(names[n])) {
            id = start + static_cast<TokenId>(n);
            length = names[n].size();
          }
        }
        out.push_back(id);
        i += length;
      }
    }
    return out;
  }
  std::string token_bytes(TokenId id) const override {
    if (id < 0 || id >= static_cast<TokenId>(vocab_size())) return {};
    return id < 256 ? std::string(1, static_cast<char>(id)) : std::string(names[id - 256]);
  }
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override {
    std::string out;
    for (const TokenId id : ids) {
      if (!skip_special || !is_special(id)) out += token_bytes(id);
    }
    return replace_ill_formed(out);
  }
  std::uint32_t vocab_size() const override { return 256 + names.size(); }
  bool is_special(TokenId id) const override { return id == start || id == end; }
  bool is_end_of_generation(TokenId id) const override { return id == end; }
  TokenId bos() const override { return no_token; }
  TokenId eos() const override { return end; }
  TokenId find(std::string_view token) const override {
    for (std::size_t n = 0; n < names.size(); ++n) {
      if (names[n] == token) return 256 + static_cast<TokenId>(n);
    }
    return no_token;
  }
  std::uint64_t memory_bytes() const override { return 1000; }

 private:
  static constexpr std::array<std::string_view, 4> names = {"<|start|>", "<|end|>", "xST", "OPx"};
};

inline ModelText byte_model_text() {
  return {std::make_unique<ByteTokenizer>(),
          "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + "
          "message['content'] + '<|end|>' }}{% endfor %}{{ '<|start|>assistant\n' }}"};
}

}  // namespace plimsoll::pretend
