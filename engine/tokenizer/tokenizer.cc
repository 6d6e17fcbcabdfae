#include "engine/tokenizer/tokenizer.h"

#include "engine/tokenizer/utf8.h"

namespace plimsoll {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), skip_special_(skip_special) {}

std::string Detokenizer::push(TokenId id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  // All but an unfinished character at the end is certain.
  std::string_view rest = pending_;
  std::string text;
  char32_t code = 0;
  while (!rest.empty() && !is_incomplete_utf8(rest)) {
    std::size_t n = decode_utf8(rest, code);
    if (n > 0) {
      text += rest.substr(0, n);
    } else {
      n = ill_formed_length(rest);
      text += "\xEF\xBF\xBD";
    }
    rest.remove_prefix(n);
  }
  pending_ = std::string(rest);
  return text;
}

std::string Detokenizer::finish() {
  std::string text = replace_ill_formed(pending_);
  pending_.clear();
  return text;
}

}  // namespace plimsoll
