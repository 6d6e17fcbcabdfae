#include "engine/tokenizer/normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <vector>

#include "engine/tokenizer/utf8.h"

namespace plimsoll {

namespace {

// Characters below U+0300 are whole already for NFC: no byte of theirs reaches 0xCC.
bool is_below_combining_marks(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
}
bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The decomposed characters in canonical order. utf8proc_decompose() would put them in order with
// a sort that is quadratic in the length of a run of marks.
std::vector<utf8proc_int32_t> decompose_characters(std::string_view text) {
  struct Mark {
    utf8proc_int32_t character;
    utf8proc_propval_t combining_class;
  };
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  std::vector<Mark> marks;
  const auto flush = [&] {
    std::ranges::stable_sort(marks, {}, &Mark::combining_class);
    for (const auto& mark : marks) out.push_back(mark.character);
    marks.clear();
  };
  char32_t code = 0;
  while (!text.empty()) {
    text.remove_prefix(decode_utf8(text, code));
    utf8proc_int32_t parts[8];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(code), parts, 8,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    if (count < 1 || count > 8) throw std::logic_error("utf8proc: a character does not decompose");
    for (const auto part : std::span(parts, static_cast<std::size_t>(count))) {
      const auto combining_class = utf8proc_get_property(part)->combining_class;
      if (combining_class > 0) {
        marks.push_back({part, combining_class});
      } else {
        flush();
        out.push_back(part);
      }
    }
  }
  flush();
  return out;
}

std::string to_utf8(std::span<const utf8proc_int32_t> characters) {
  std::string out;
  out.reserve(characters.size());
  for (const auto c : characters) append_utf8(out, static_cast<char32_t>(c));
  return out;
}

}  // namespace

std::string decompose(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  return to_utf8(decompose_characters(text));
}

std::string compose(std::string_view text) {
  if (is_below_combining_marks(text)) return std::string(text);
  auto characters = decompose_characters(text);
  const auto length =
      utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (length < 0) throw std::logic_error("utf8proc: a text does not compose");
  return to_utf8(std::span(characters).first(static_cast<std::size_t>(length)));
}

}  // namespace plimsoll
