// One choice's tokens turned into the text that its client may see: whole characters only, and
// nothing that could still become part of a stop string. Where the tokens' borders lie makes no
// difference to the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "engine/base/types.h"
#include "engine/tokenizer/tokenizer.h"

namespace plimsoll {

class TextStream {
 public:
  // `tokenizer` outlives the stream. Stop strings are not empty.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops);

  struct Piece {
    std::string text;          // certain now; valid UTF-8
    std::uint32_t tokens = 0;  // how many more of the pushed tokens are done with, oldest first
    bool stopped = false;      // a stop string came: the text ends before it
  };
  // Before any other call: goes on behind tokens that were done with and text that was given out
  // elsewhere. They do not come again; a piece has the text that lies behind `text_bytes`.
  Piece resume(std::span<const TokenId> tokens, std::uint64_t text_bytes);
  // After a piece with `stopped`, nothing more may be pushed. Tokens that lie wholly in or behind
  // the stop string are never done with.
  Piece push(TokenId token);
  // The end without a stop string: what was held back.
  Piece finish();

 private:
  Piece take(std::size_t bytes);  // releases that much of what is held
  Piece next(TokenId token);
  Piece unseen(Piece piece);  // less what was given out elsewhere

  Detokenizer detokenizer_;
  std::vector<std::string> stops_;
  std::string held_;
  std::uint64_t released_ = 0;            // bytes of text given out
  std::uint64_t done_ = 0;                // where the last token that is done with ended
  std::deque<std::uint64_t> token_ends_;  // where each token that is not done with ends
  std::uint64_t seen_bytes_ = 0;          // to come, that were given out elsewhere
  std::uint32_t seen_tokens_ = 0;         // to come, that were done with elsewhere
};

}  // namespace plimsoll
