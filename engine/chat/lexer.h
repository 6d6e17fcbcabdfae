// Template source as tokens, with Jinja2's whitespace control applied to the text between tags.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/value.h"

namespace plimsoll::jinja {

struct Token {
  enum class Kind : std::uint8_t {
    data,
    block_begin,
    block_end,
    variable_begin,
    variable_end,
    name,
    string,
    integer,
    real,
    symbol,
    end,
  };

  Kind kind;
  std::size_t offset;
  std::string text;  // of data, names, strings and symbols
  Int integer = 0;
  double real = 0;

  bool is_name(std::string_view name) const { return kind == Kind::name && text == name; }
  bool is_symbol(std::string_view symbol) const { return kind == Kind::symbol && text == symbol; }
};

// "\r\n" and "\r" as "\n", and one line end at the end of the source dropped.
std::string normalize_newlines(std::string_view source);

// Throws TemplateError (malformed) with the offset. `source` is normalized, valid UTF-8. Ends with
// a token of kind `end`.
std::vector<Token> tokenize(std::string_view source);

[[noreturn]] void fail_syntax(std::size_t offset, std::string message);

}  // namespace plimsoll::jinja
