#include "engine/chat/lexer.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

constexpr std::size_t max_name_bytes = 256;  // names are compared in no counted step

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int digit_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// Follows jinja2.lexer: the root state looks for the next tag; a tag's own tokens come until its
// end, which counts only outside brackets.
class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    add(Token::Kind::end, source_.size());
    return std::move(tokens_);
  }

 private:
  bool starts(std::string_view text, std::size_t at) const {
    return source_.substr(std::min(at, source_.size())).starts_with(text);
  }
  char peek(std::size_t at) const { return at < source_.size() ? source_[at] : '\0'; }

  Token& add(Token::Kind kind, std::size_t offset, std::string text = {}) {
    tokens_.push_back({kind, offset, std::move(text)});
    return tokens_.back();
  }

  void move_to(std::size_t next) {
    if (next > at_) line_starting_ = source_[next - 1] == '\n';
    at_ = next;
  }

  // The text before a tag, stripped as the tag's sign and lstrip_blocks say.
  void add_data(std::size_t end, char sign, bool is_variable) {
    std::size_t stop = end;
    if (sign == '-') {
      stop = trim_space_right(source_, at_, end);
    } else if (sign != '+' && !is_variable) {
      const std::size_t newline = source_.substr(at_, end - at_).rfind('\n');
      const std::size_t line = newline == std::string_view::npos ? at_ : at_ + newline + 1;
      if ((line > at_ || line_starting_) && trim_space_right(source_, line, end) == line) {
        stop = line;
      }
    }
    if (stop > at_) add(Token::Kind::data, at_, std::string(source_.substr(at_, stop - at_)));
  }

  static char sign_of(char c) { return c == '-' || c == '+' ? c : '\0'; }

  // Past the end of a tag at `at`: after '-' with the whitespace that follows, after a plain end
  // with the newline that follows (trim_blocks).
  std::size_t after_end(std::size_t at, char sign) const {
    if (sign == '-') return skip_space(source_, at);
    if (sign == '\0' && peek(at) == '\n') return at + 1;
    return at;
  }

  void root() {
    std::size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string_view::npos) {
        add(Token::Kind::data, at_, std::string(source_.substr(at_)));
        return move_to(source_.size());
      }
      const char second = peek(tag + 1);
      if (second == '%' || second == '{' || second == '#') break;
      ++tag;
    }
    const char second = source_[tag + 1];
    const char sign = sign_of(peek(tag + 2));
    add_data(tag, sign, second == '{');
    const std::size_t begin = tag + (sign != '\0' ? 3 : 2);
    if (second == '#') return comment(tag, begin);
    if (second == '%') {
      if (const std::size_t raw_begin = match_raw(begin); raw_begin != 0)
        return raw(tag, raw_begin);
    }
    const bool is_block = second == '%';
    add(is_block ? Token::Kind::block_begin : Token::Kind::variable_begin, tag);
    move_to(begin);
    inside_tag(tag, is_block);
  }

  void comment(std::size_t tag, std::size_t begin) {
    const std::size_t end = source_.find("#}", begin);
    if (begin == source_.size()) return move_to(begin);  // as jinja2.lexer lets it
    if (end == std::string_view::npos) fail_syntax(tag, "missing end of comment tag");
    const char sign = end > begin ? sign_of(source_[end - 1]) : '\0';
    move_to(after_end(end + 2, sign));
  }

  // The end of `raw %}` or `raw -%}` at `at`; 0 if it is not there.
  std::size_t match_raw(std::size_t at) const {
    at = skip_space(source_, at);
    if (!starts("raw", at)) return 0;
    at = skip_space(source_, at + 3);
    if (starts("-%}", at)) return skip_space(source_, at + 3);
    return starts("%}", at) ? at + 2 : 0;
  }

  void raw(std::size_t tag, std::size_t begin) {
    move_to(begin);
    if (begin == source_.size()) return;  // as jinja2.lexer lets it
    for (std::size_t end = source_.find("{%", begin); end != std::string_view::npos;
         end = source_.find("{%", end + 1)) {
      const char sign = sign_of(peek(end + 2));
      std::size_t at = skip_space(source_, end + (sign != '\0' ? 3 : 2));
      if (!starts("endraw", at)) continue;
      at = skip_space(source_, at + 6);
      const char end_sign = sign_of(peek(at));
      if (end_sign != '\0') ++at;
      if (!starts("%}", at)) continue;
      add_data(end, sign, false);
      return move_to(after_end(at + 2, end_sign));
    }
    fail_syntax(tag, "missing end of raw directive");
  }

  void inside_tag(std::size_t tag, bool is_block) {
    brackets_.clear();
    const std::string_view close = is_block ? "%}" : "}}";
    while (at_ < source_.size()) {
      if (brackets_.empty()) {
        const char sign = peek(at_) == '-' || (is_block && peek(at_) == '+') ? peek(at_) : '\0';
        const std::size_t end = at_ + (sign != '\0' ? 1 : 0);
        if (starts(close, end)) {
          add(is_block ? Token::Kind::block_end : Token::Kind::variable_end, at_);
          // trim_blocks is for blocks alone.
          return move_to(is_block || sign == '-' ? after_end(end + 2, sign) : end + 2);
        }
      }
      if (const std::size_t next = skip_space(source_, at_); next > at_) {
        move_to(next);
      } else {
        token();
      }
    }
    fail_syntax(tag, is_block ? "the block tag is not closed" : "the print tag is not closed");
  }

  void token() {
    const char c = source_[at_];
    if (is_digit(c)) return number();
    if (c == '\'' || c == '"') return string();
    if (word_at(at_) > at_) return name();
    symbol();
  }

  std::size_t digits(std::size_t at) const {  // d(_?d)*
    while (is_digit(peek(at)) || (peek(at) == '_' && is_digit(peek(at + 1)))) ++at;
    return at;
  }

  void number() {
    if (peek(at_) == '0' && is_based_integer()) return;
    const std::size_t begin = at_;
    std::size_t end = digits(begin);
    bool real = false;
    const bool after_dot = begin > 0 && source_[begin - 1] == '.';
    if (!after_dot) {
      if (peek(end) == '.' && is_digit(peek(end + 1))) {
        end = digits(end + 1);
        real = true;
      }
      if (peek(end) == 'e' || peek(end) == 'E') {
        const std::size_t sign = peek(end + 1) == '+' || peek(end + 1) == '-' ? 1 : 0;
        if (is_digit(peek(end + 1 + sign))) {
          end = digits(end + 1 + sign);
          real = true;
        }
      }
    }
    if (!real && peek(begin) == '0') {  // 0(_?0)*: "01" is 0 and 1
      end = begin + 1;
      while (peek(end) == '0' || (peek(end) == '_' && peek(end + 1) == '0')) ++end;
    }
    std::string text(source_.substr(begin, end - begin));
    std::erase(text, '_');
    Token& token = add(real ? Token::Kind::real : Token::Kind::integer, begin);
    if (real) {
      token.real = std::strtod(text.c_str(), nullptr);  // infinity where it is too large
    } else {
      token.integer = integer(text, 10, begin);
    }
    move_to(end);
  }

  bool is_based_integer() {
    const char mark = peek(at_ + 1) | 0x20;
    const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (base == 0) return false;
    std::string text;
    std::size_t end = at_ + 2;
    while (true) {
      const std::size_t digit = end + (peek(end) == '_' ? 1 : 0);
      if (digit_value(peek(digit)) >= base) break;
      text += source_[digit];
      end = digit + 1;
    }
    if (text.empty()) return false;
    add(Token::Kind::integer, at_).integer = integer(text, base, at_);
    move_to(end);
    return true;
  }

  static Int integer(std::string_view text, int base, std::size_t offset) {
    Int value = 0;
    for (const char c : text) {
      if (__builtin_mul_overflow(value, base, &value) ||
          __builtin_add_overflow(value, digit_value(c), &value)) {
        fail_syntax(offset, "the integer is too large");
      }
    }
    return value;
  }

  std::size_t word_at(std::size_t at) const {
    while (at < source_.size()) {
      std::size_t next = at;
      if (!is_word(decode(source_, next))) break;
      at = next;
    }
    return at;
  }

  void name() {
    const std::size_t end = word_at(at_);
    if (end - at_ > max_name_bytes) fail_syntax(at_, "the name is too long");
    add(Token::Kind::name, at_, std::string(source_.substr(at_, end - at_)));
    move_to(end);
  }

  void string() {
    const std::size_t begin = at_;
    const char quote = source_[begin];
    std::size_t end = begin + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_syntax(begin, "the string is not closed");
    add(Token::Kind::string, begin, unescape(begin + 1, end));
    move_to(end + 1);
  }

  // Python's unicode-escape.
  std::string unescape(std::size_t at, std::size_t end) const {
    std::string out;
    while (at < end) {
      const char c = source_[at++];
      if (c != '\\') {
        out += c;
        continue;
      }
      const char kind = source_[at++];
      switch (kind) {
        case '\n': break;
        case '\\':
        case '\'':
        case '"': out += kind; break;
        case 'a': out += '\a'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'v': out += '\v'; break;
        case 'x': append_utf8(out, hex(at, 2, end)); break;
        case 'u': append_utf8(out, hex(at, 4, end)); break;
        case 'U': append_utf8(out, hex(at, 8, end)); break;
        case 'N': fail_syntax(at - 2, "\\N{...} in a string is not supported");
        default:
          if (kind >= '0' && kind <= '7') {
            char32_t code = static_cast<char32_t>(kind - '0');
            for (int i = 0; i < 2 && at < end && source_[at] >= '0' && source_[at] <= '7'; ++i) {
              code = code * 8 + static_cast<char32_t>(source_[at++] - '0');
            }
            append_utf8(out, code);
          } else {
            out += '\\';
            out += kind;
          }
      }
    }
    return out;
  }

  char32_t hex(std::size_t& at, int digits, std::size_t end) const {
    char32_t code = 0;
    for (int i = 0; i < digits; ++i) {
      if (at >= end || digit_value(source_[at]) > 15)
        fail_syntax(at, "truncated escape in a string");
      code = code * 16 + static_cast<char32_t>(digit_value(source_[at++]));
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      fail_syntax(at, "the escape is not a Unicode character");
    }
    return code;
  }

  void symbol() {
    static constexpr std::array<std::string_view, 26> symbols = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto found =
        std::find_if(symbols.begin(), symbols.end(), [&](auto s) { return starts(s, at_); });
    if (found == symbols.end()) fail_syntax(at_, "unexpected character in a tag");
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') {
      brackets_ += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty() || brackets_.back() != c) {
        fail_syntax(at_, "unexpected '" + std::string(1, c) + "'");
      }
      brackets_.pop_back();
    }
    add(Token::Kind::symbol, at_, std::string(*found));
    move_to(at_ + found->size());
  }

  std::string_view source_;
  std::size_t at_ = 0;
  bool line_starting_ = true;
  std::string brackets_;  // the closing ones still to come
  std::vector<Token> tokens_;
};

}  // namespace

std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

void fail_syntax(std::size_t offset, std::string message) {
  throw TemplateError{Error(ErrorCode::malformed, std::move(message)).at(offset)};
}

}  // namespace plimsoll::jinja
