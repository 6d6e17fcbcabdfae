// What the three algorithms share: a vocabulary with marked tokens, and the way a text is split at
// them.
#pragma once

#include <vector>

#include "engine/tokenizer/token_trie.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary.h"

namespace plimsoll {

struct SpecialIds {
  TokenId bos = no_token;
  TokenId eos = no_token;
  TokenId unknown = no_token;
  bool add_bos = false;
  bool add_eos = false;
  std::vector<TokenId> end_of_generation;

  // Adds an id once; no_token is ignored.
  void add_end(TokenId id);
  // Adds the control tokens that end an answer in published chat models, by their names.
  void add_well_known_ends(const Vocabulary& vocabulary);
};

class BaseTokenizer : public Tokenizer {
 public:
  BaseTokenizer(Vocabulary vocabulary, SpecialIds ids);

  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const override;
  Result<std::vector<TokenId>> encode_parts(std::span<const TextPart> parts,
                                            bool add_special) const override;
  std::uint32_t vocab_size() const override { return vocabulary_.size(); }
  bool is_special(TokenId id) const override;
  bool is_end_of_generation(TokenId id) const override;
  TokenId bos() const override { return ids_.bos; }
  TokenId eos() const override { return ids_.eos; }
  TokenId find(std::string_view token) const override { return vocabulary_.find(token); }
  std::uint64_t memory_bytes() const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override;

 protected:
  // Appends the ids of a stretch of well-formed text without marked tokens. `first`: no text
  // stands before it, or a special token does; the stretch may be empty then.
  virtual void encode_text(std::string_view text, bool first, std::vector<TokenId>& out) const = 0;

  Vocabulary vocabulary_;
  SpecialIds ids_;

 private:
  // Text without special tokens, split at the user-defined ones.
  void encode_plain(std::string_view text, std::vector<TokenId>& out) const;

  TokenTrie special_;
  TokenTrie user_defined_;
};

}  // namespace plimsoll
