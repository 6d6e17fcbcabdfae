// Drafts for one sequence, by prompt lookup (Saxena 2023, "Prompt Lookup Decoding"): where the text
// ends as it did once before, it may go on as it did then. No second model, and no memory but this
// object: what repeats is found in the sequence's own tokens.
//
// Whether it is worth trying is learnt by watching: each token that comes is compared with what was
// expected, whether it had been drafted or not. So a text that does not repeat itself costs nothing
// but the looking, and one that does is found out within a few tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/base/types.h"

namespace plimsoll {

class PromptLookup {
 public:
  static constexpr std::uint32_t most_drafts = 7;
  // How far back it looks, and how many of the places that it finds there it compares.
  static constexpr std::uint32_t window_tokens = 8192;
  static constexpr std::uint32_t most_places = 64;

  // `tokens` are the sequence's, prompt and output. Looks for the longest end of them, of 2 tokens
  // or more, that was there before, and of several for the latest; not if what it found last still
  // holds.
  void look_up(std::span<const TokenId> tokens);
  // A token has come: tokens.back(). To be called for each one.
  void see(std::span<const TokenId> tokens);

  bool found() const { return match_.next > 0; }
  // That the next token is the expected one, and then the one behind it, and so on: for each.
  double chance() const { return found() ? chances_[kind()] : 0; }
  // The last token and `count` that are expected behind it; valid until the next call.
  std::span<const TokenId> draft(std::span<const TokenId> tokens, std::uint32_t count);

 private:
  static constexpr std::uint32_t least_match = 2, most_match = 16;
  // A longer match is a better one: chances are kept apart for 2 tokens, 3, up to 7, and more.
  static constexpr std::size_t kinds = 4;
  std::size_t kind() const {
    if (match_.length < 4) return match_.length - least_match;
    return match_.length < 8 ? 2 : 3;
  }
  struct Match {
    std::uint32_t next = 0;    // where in the tokens stands what followed; 0: there is none
    std::uint32_t length = 0;  // tokens that were the same
  };
  static Match longest(std::span<const TokenId> tokens);

  Match match_;
  std::array<double, kinds> chances_ = {0.1, 0.2, 0.4, 0.6};
  std::array<TokenId, 1 + most_drafts> draft_{};
};

}  // namespace plimsoll
