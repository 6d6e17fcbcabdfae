// Text to token ids and back, as the model's own vocabulary file says.
//
// Three algorithms: byte-level BPE (GPT-2 family), SentencePiece-style BPE with byte fallback
// (Gemma, Llama-2), WordPiece (BERT). Ids equal those of the reference implementations.
// A Tokenizer is immutable: any number of threads may use one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/formats/gguf.h"

namespace plimsoll {

struct EncodeOptions {
  // Add what the model's file asks for around a text: BOS, EOS, [CLS] ... [SEP].
  bool add_special = true;
  // Read "<|im_end|>" in the text as the special token. Never for users' text; for the output of a
  // chat template only (and there only around, not inside, users' text: see encode_parts).
  bool parse_special = false;
};

// A piece of text, and whether special tokens may be read in it.
struct TextPart {
  std::string_view text;
  bool parse_special = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Invalid UTF-8 is read as U+FFFD, one for each maximal ill-formed subpart (Unicode 3.9).
  // Time is O(n log n) in the worst case. While it runs it holds up to 4 bytes for each byte of
  // the text, and 52 more for each byte of its longest word. Errors: invalid_argument if over
  // 64 MiB.
  virtual Result<std::vector<TokenId>> encode(std::string_view text,
                                              EncodeOptions options) const = 0;

  // Bytes of the longest word of `text`, in that sense, or an upper bound; 0 if it merges nothing.
  virtual std::size_t longest_word(std::string_view text) const { return text.size(); }

  // The parts are tokenized as one text: merges and user-defined tokens (runs of newlines, ...) may
  // cross a border between two parts. Special tokens are recognized only where all of their bytes
  // are in parts that allow it.
  virtual Result<std::vector<TokenId>> encode_parts(std::span<const TextPart> parts,
                                                    bool add_special) const = 0;

  // The bytes a token stands for in running text: may be an incomplete UTF-8 sequence. Special
  // tokens give their name. Empty for an id outside the vocabulary.
  virtual std::string token_bytes(TokenId id) const = 0;

  // The text of a sequence of ids, as the reference's decode(). Invalid UTF-8 becomes U+FFFD.
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special) const = 0;

  virtual std::uint32_t vocab_size() const = 0;
  virtual bool is_special(TokenId id) const = 0;
  virtual bool is_end_of_generation(TokenId id) const = 0;  // EOS, <|im_end|>, <end_of_turn>, ...
  virtual TokenId bos() const = 0;                          // no_token if the model has none
  virtual TokenId eos() const = 0;
  virtual TokenId find(std::string_view token) const = 0;  // exact vocabulary entry, or no_token
  virtual std::uint64_t memory_bytes() const = 0;          // heap held, for the ledger
};

// From the tokenizer.ggml.* keys. The file may be closed afterwards.
Result<std::unique_ptr<Tokenizer>> make_tokenizer(const GgufFile& file);
// From a Hugging Face tokenizer.json (WordPiece and byte-level BPE models).
Result<std::unique_ptr<Tokenizer>> make_tokenizer(const std::filesystem::path& tokenizer_json);

// Turns a stream of tokens into a stream of valid UTF-8: holds back the bytes of an incomplete
// character until the token that ends it. The stream continues a text, so that, unlike decode(), it
// keeps the space that the first token may begin with.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);
  // The text that this token completes; often empty inside a multi-byte character.
  std::string push(TokenId id);
  // What was held back; incomplete bytes become U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace plimsoll
