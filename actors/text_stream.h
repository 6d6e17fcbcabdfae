// One choice's tokens turned into the text that its client may see: whole characters only, and
// nothing that could still become part of a stop string. Where the tokens' borders lie makes no
// difference to the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
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
  // After a piece with `stopped`, nothing more may be pushed. Tokens that lie wholly in or behind
  // the stop string are never done with.
  Piece push(TokenId token);
  // The end without a stop string: what was held back.
  Piece finish();

 private:
  Piece take(std::size_t bytes);  // releases that much of what is held

  Detokenizer detokenizer_;
  std::vector<std::string> stops_;
  std::string held_;
  std::uint64_t released_ = 0;            // bytes of text given out
  std::uint64_t done_ = 0;                // where the last token that is done with ended
  std::deque<std::uint64_t> token_ends_;  // where each token that is not done with ends
};

}  // namespace plimsoll
