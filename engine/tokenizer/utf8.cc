#include "engine/tokenizer/utf8.h"

namespace plimsoll {

namespace {

// The bytes a lead byte asks for, and the range of its second byte (table 3-7 of the standard).
struct Lead {
  std::size_t length;
  unsigned char low;
  unsigned char high;
};
Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes at the start of `text` go together in a well-formed way.
std::size_t good_prefix(std::string_view text, const Lead& lead) {
  std::size_t n = 1;
  while (n < lead.length && n < text.size()) {
    const auto byte = static_cast<unsigned char>(text[n]);
    const bool good = n == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
    if (!good) break;
    ++n;
  }
  return n;
}

}  // namespace

std::size_t decode_utf8(std::string_view text, char32_t& code) {
  if (text.empty()) return 0;
  const auto first = static_cast<unsigned char>(text[0]);
  const Lead lead = lead_of(first);
  if (lead.length == 0 || good_prefix(text, lead) != lead.length) return 0;
  code = lead.length == 1 ? first : first & (0x7F >> lead.length);
  for (std::size_t i = 1; i < lead.length; ++i) {
    code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
  }
  return lead.length;
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

std::size_t ill_formed_length(std::string_view text) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.length == 0 ? 1 : good_prefix(text, lead);
}

bool is_incomplete_utf8(std::string_view text) {
  if (text.empty()) return false;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.length > text.size() && good_prefix(text, lead) == text.size();
}

bool is_valid_utf8(std::string_view text) {
  char32_t code = 0;
  while (!text.empty()) {
    const std::size_t n = decode_utf8(text, code);
    if (n == 0) return false;
    text.remove_prefix(n);
  }
  return true;
}

std::string replace_ill_formed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  char32_t code = 0;
  while (!text.empty()) {
    std::size_t n = decode_utf8(text, code);
    if (n > 0) {
      out.append(text.substr(0, n));
    } else {
      n = ill_formed_length(text);
      out += "\xEF\xBF\xBD";
    }
    text.remove_prefix(n);
  }
  return out;
}

}  // namespace plimsoll
