// UTF-8 as the tokenizers need it (Unicode Standard 3.9).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace plimsoll {

// The length of the well-formed character at the start of `text`, or 0; `code` receives it.
std::size_t decode_utf8(std::string_view text, char32_t& code);
void append_utf8(std::string& out, char32_t code);

// The length of the maximal ill-formed subpart at the start of `text`: what one U+FFFD stands for.
std::size_t ill_formed_length(std::string_view text);

// Whether `text` is the beginning of a well-formed character that more bytes could complete.
bool is_incomplete_utf8(std::string_view text);

// `text` with each maximal ill-formed subpart replaced by U+FFFD.
std::string replace_ill_formed(std::string_view text);
bool is_valid_utf8(std::string_view text);

}  // namespace plimsoll
