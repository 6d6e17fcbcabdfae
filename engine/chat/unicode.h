// Unicode as Python's str sees it: code points, whitespace, line breaks, case.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace plimsoll::jinja {

bool is_valid_utf8(std::string_view text);

// The code point at byte `at`, which moves past it. `text` is valid UTF-8.
char32_t decode(std::string_view text, std::size_t& at);
void append_utf8(std::string& out, char32_t c);

std::size_t count_code_points(std::string_view text);
// The byte offset of code point `index`; text.size() past the end.
std::size_t byte_offset(std::string_view text, std::size_t index);

bool is_space(char32_t c);       // str.isspace
bool is_line_break(char32_t c);  // what str.splitlines splits at
bool is_printable(char32_t c);   // what repr() shows as it is
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_word(char32_t c);  // \w of a regular expression

// Appends the full case mapping of `c`, which may be several code points.
void append_upper(std::string& out, char32_t c);
void append_lower(std::string& out, char32_t c);
void append_title(std::string& out, char32_t c);

// The part of `text` without what is_space at its ends, as [begin, end).
std::size_t skip_space(std::string_view text, std::size_t begin);
std::size_t trim_space_right(std::string_view text, std::size_t begin, std::size_t end);

}  // namespace plimsoll::jinja
