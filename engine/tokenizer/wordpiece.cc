#include "engine/tokenizer/wordpiece.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "engine/tokenizer/normalize.h"
#include "engine/tokenizer/utf8.h"

namespace plimsoll {

namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_space(char32_t c) {
  if (c == ' ' || (c >= '\t' && c <= '\r') || c == 0x85) return true;
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL ||
         kind == UTF8PROC_CATEGORY_ZP;
}

bool is_control(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  const auto kind = category(c);
  // Unassigned code points stay: the reference's tables do not count them as "other".
  return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
         kind == UTF8PROC_CATEGORY_CO || kind == UTF8PROC_CATEGORY_CS;
}

bool is_punctuation(char32_t c) {
  if ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
      (c >= 123 && c <= 126)) {
    return true;
  }
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

// The reference's ranges, which leave out U+2B820 to U+2B91F.
bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// The full mapping: of all characters only U+0130 has a longer one.
void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) {
    out += "i\xCC\x87";
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

template <class Visit>
void each_character(std::string_view text, Visit visit) {
  char32_t code = 0;
  while (!text.empty()) {
    const std::size_t n = decode_utf8(text, code);
    if (n == 0) return;  // the caller has replaced what is ill-formed
    visit(code);
    text.remove_prefix(n);
  }
}

// English without the spaces that splitting put in, as the reference does it: token by token.
std::string clean_up(std::string token) {
  static constexpr std::pair<std::string_view, std::string_view> rules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : rules) {
    for (auto at = token.find(from); at != std::string::npos; at = token.find(from, at)) {
      token.replace(at, from.size(), to);
      at += to.size();
    }
  }
  return token;
}

class WordPieceTokenizer final : public BaseTokenizer {
 public:
  WordPieceTokenizer(Vocabulary vocabulary, SpecialIds ids, WordPieceOptions options)
      : BaseTokenizer(std::move(vocabulary), std::move(ids)), options_(std::move(options)) {}

  std::size_t longest_word(std::string_view) const override { return 0; }
  std::uint64_t memory_bytes() const override {
    return sizeof *this + BaseTokenizer::memory_bytes();
  }

  std::string token_bytes(TokenId id) const override {
    if (!vocabulary_.contains(id)) return {};
    const std::string_view text = vocabulary_.text(id);
    if (vocabulary_.kind(id) == Vocabulary::Kind::special) return std::string(text);
    if (text.starts_with(options_.continuation)) {
      return std::string(text.substr(options_.continuation.size()));
    }
    return " " + std::string(text);
  }

  std::string decode(std::span<const TokenId> ids, bool skip_special) const override {
    std::string text;
    bool first = true;
    for (const TokenId id : ids) {
      if (!vocabulary_.contains(id) || (skip_special && is_special(id))) continue;
      std::string token(vocabulary_.text(id));
      if (!first) {  // the first keeps its "##": there is nothing to continue
        if (token.starts_with(options_.continuation)) {
          token.erase(0, options_.continuation.size());
        } else {
          token.insert(0, " ");
        }
      }
      text += options_.clean_up ? clean_up(std::move(token)) : token;
      first = false;
    }
    return replace_ill_formed(text);
  }

 private:
  std::string normalize(std::string_view text) const {
    std::string out;
    out.reserve(text.size());
    each_character(text, [&](char32_t c) {
      if (options_.clean_text) {
        if (c == 0 || c == 0xFFFD || is_control(c)) return;
        if (is_space(c)) c = ' ';
      }
      if (options_.split_chinese && is_chinese(c)) {
        out += ' ';
        append_utf8(out, c);
        out += ' ';
      } else {
        append_utf8(out, c);
      }
    });
    if (options_.strip_accents) {
      std::string kept;
      each_character(decompose(out), [&](char32_t c) {
        if (category(c) != UTF8PROC_CATEGORY_MN) append_utf8(kept, c);
      });
      out = std::move(kept);
    }
    if (options_.lowercase) {
      std::string lowered;
      each_character(out, [&](char32_t c) { append_lower(lowered, c); });
      out = std::move(lowered);
    }
    return out;
  }

  // A space ends a word and nothing is normalized across it, so that only what is between two is
  // held at a time.
  void encode_text(std::string_view text, bool /*first*/,
                   std::vector<TokenId>& out) const override {
    while (!text.empty()) {
      const auto end = std::min(text.find(' '), text.size());
      encode_words(text.substr(0, end), out);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  void encode_words(std::string_view text, std::vector<TokenId>& out) const {
    std::string word;
    std::uint32_t characters = 0;
    const auto flush = [&] {
      if (!word.empty()) encode_word(word, characters, out);
      word.clear();
      characters = 0;
    };
    each_character(normalize(text), [&](char32_t c) {
      if (is_space(c)) {
        flush();
      } else if (is_punctuation(c)) {
        flush();
        append_utf8(word, c);
        characters = 1;
        flush();
      } else {
        append_utf8(word, c);
        ++characters;
      }
    });
    flush();
  }

  void encode_word(const std::string& word, std::uint32_t characters,
                   std::vector<TokenId>& out) const {
    if (characters > options_.max_word_characters) {
      out.push_back(ids_.unknown);
      return;
    }
    const std::size_t before = out.size();
    std::string piece;
    for (std::size_t begin = 0; begin < word.size();) {
      TokenId id = no_token;
      std::size_t end = word.size();
      for (; end > begin; --end) {
        if (end < word.size() && (word[end] & 0xC0) == 0x80) continue;  // inside a character
        piece.assign(begin == 0 ? "" : options_.continuation).append(word, begin, end - begin);
        id = vocabulary_.find(piece);
        if (id != no_token) break;
      }
      if (id == no_token) {  // a word with one unknown part is unknown as a whole
        out.resize(before);
        out.push_back(ids_.unknown);
        return;
      }
      out.push_back(id);
      begin = end;
    }
  }

  WordPieceOptions options_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_wordpiece_tokenizer(Vocabulary vocabulary, SpecialIds ids,
                                                    WordPieceOptions options) {
  return std::make_unique<WordPieceTokenizer>(std::move(vocabulary), std::move(ids),
                                              std::move(options));
}

}  // namespace plimsoll
