#include "actors/text_stream.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace plimsoll {

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
    : detokenizer_(tokenizer), stops_(std::move(stops)) {}

TextStream::Piece TextStream::resume(std::span<const TokenId> tokens, std::uint64_t text_bytes) {
  seen_bytes_ = text_bytes;
  seen_tokens_ = static_cast<std::uint32_t>(tokens.size());
  Piece all;
  for (const TokenId token : tokens) {
    const Piece piece = push(token);
    all.text += piece.text;
    all.stopped = piece.stopped;
    if (all.stopped) break;
  }
  return all;
}

TextStream::Piece TextStream::push(TokenId token) { return unseen(next(token)); }

TextStream::Piece TextStream::unseen(Piece piece) {
  std::size_t cut = std::min<std::uint64_t>(seen_bytes_, piece.text.size());
  // Whole characters, whatever a client counts.
  while (cut < piece.text.size() &&
         (static_cast<unsigned char>(piece.text[cut]) & 0xC0U) == 0x80U) {
    ++cut;
  }
  piece.text.erase(0, cut);
  seen_bytes_ -= std::min<std::uint64_t>(seen_bytes_, cut);
  const std::uint32_t tokens = std::min(seen_tokens_, piece.tokens);
  piece.tokens -= tokens;
  seen_tokens_ -= tokens;
  return piece;
}

TextStream::Piece TextStream::next(TokenId token) {
  held_ += detokenizer_.push(token);
  token_ends_.push_back(released_ + held_.size());

  // The stop string that is complete first ends the text; of two that end together, the longer.
  std::size_t match_begin = std::string::npos, match_end = std::string::npos;
  for (const auto& stop : stops_) {
    const std::size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const std::size_t end = begin + stop.size();
    if (end < match_end || (end == match_end && begin < match_begin)) {
      match_begin = begin;
      match_end = end;
    }
  }
  if (match_begin != std::string::npos) {
    Piece piece = take(match_begin);
    // A token that the stop string begins within has a part in the text.
    if (!token_ends_.empty() && done_ < released_) ++piece.tokens;
    piece.stopped = true;
    return piece;
  }

  // Held back is the longest end of the text that begins a stop string.
  std::size_t keep = 0;
  for (const auto& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) {
        keep = n;
      }
    }
  }
  return take(held_.size() - keep);
}

TextStream::Piece TextStream::finish() {
  held_ += detokenizer_.finish();
  Piece piece = take(held_.size());
  piece.tokens += static_cast<std::uint32_t>(token_ends_.size());
  token_ends_.clear();
  return unseen(std::move(piece));
}

TextStream::Piece TextStream::take(std::size_t bytes) {
  Piece piece;
  piece.text = held_.substr(0, bytes);
  held_.erase(0, bytes);
  released_ += bytes;
  while (!token_ends_.empty() && token_ends_.front() <= released_) {
    done_ = token_ends_.front();
    token_ends_.pop_front();
    ++piece.tokens;
  }
  return piece;
}

}  // namespace plimsoll
