#include "engine/chat/text_operations.h"

#include <algorithm>
#include <utility>

#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

using Append = void (*)(std::string&, char32_t);

// Maps each code point, keeping origins. `first` is for the first of a word or text.
template <class ChooseMapping>
String map_case(Meter& meter, const Text& text, ChooseMapping choose) {
  meter.work(4 * text.bytes.size());
  TextBuilder out(meter);
  std::string mapped;
  std::size_t at = 0;
  for (const Run& run : text.runs) {
    mapped.clear();
    while (at < run.end) {
      const char32_t c = decode(text.bytes, at);
      const Append append = choose(c);
      append(mapped, c);
      if (mapped.size() > 4096) {  // a run may be the whole limit: keep the copy small
        out.append(mapped, run.from_template);
        mapped.clear();
      }
    }
    out.append(mapped, run.from_template);
  }
  return out.finish();
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

// The capital sigma at a word's end is the final one in lower case.
String lower_with_sigma(Meter& meter, const Text& text) {
  TextBuilder out(meter);
  bool after_cased = false;
  for (std::size_t at = 0; at < text.bytes.size();) {
    meter.step();
    const std::size_t begin = at;
    const char32_t c = decode(text.bytes, at);
    std::string mapped;
    if (c == 0x3A3 && after_cased) {
      std::size_t next = at;
      const bool before_cased = next < text.bytes.size() && is_cased(decode(text.bytes, next));
      append_utf8(mapped, before_cased ? 0x3C3 : 0x3C2);
    } else {
      append_lower(mapped, c);
    }
    out.append(mapped, text.from_template_at(begin));
    after_cased = is_cased(c);
  }
  return out.finish();
}

}  // namespace

String upper(Meter& meter, const Text& text) {
  return map_case(meter, text, [](char32_t) -> Append { return append_upper; });
}

String lower(Meter& meter, const Text& text) {
  if (text.bytes.find("\u03A3") != std::string::npos) return lower_with_sigma(meter, text);
  return map_case(meter, text, [](char32_t) -> Append { return append_lower; });
}

String capitalize(Meter& meter, const Text& text) {
  bool first = true;
  return map_case(meter, text, [&](char32_t) -> Append {
    return std::exchange(first, false) ? append_title : append_lower;
  });
}

String title(Meter& meter, const Text& text) {
  bool in_word = false;
  return map_case(meter, text, [&](char32_t c) -> Append {
    const Append append = in_word ? append_lower : append_title;
    in_word = is_cased(c);
    return append;
  });
}

String swap_case(Meter& meter, const Text& text) {
  return map_case(meter, text,
                  [](char32_t c) -> Append { return is_upper(c) ? append_lower : append_upper; });
}

String strip(Meter& meter, const String& text, const Text* chars, bool left, bool right) {
  const std::string& bytes = text->bytes;
  meter.work(bytes.size());
  std::size_t begin = 0;
  std::size_t end = bytes.size();
  if (chars == nullptr) {
    if (left) begin = skip_space(bytes, 0);
    if (right) end = trim_space_right(bytes, begin, end);
    return substring(meter, text, begin, end);
  }
  const std::string& set = chars->bytes;
  charge_search(meter, bytes.size(), set.size());
  const auto in_set = [&](std::size_t from, std::size_t to) {
    return set.find(bytes.substr(from, to - from)) != std::string::npos;
  };
  while (left && begin < end) {
    std::size_t next = begin;
    decode(bytes, next);
    if (!in_set(begin, next)) break;
    begin = next;
  }
  while (right && end > begin) {
    std::size_t last = end - 1;
    while ((static_cast<unsigned char>(bytes[last]) & 0xC0) == 0x80) --last;
    if (!in_set(last, end)) break;
    end = last;
  }
  return substring(meter, text, begin, end);
}

String replace(Meter& meter, const String& text, const Text& from, const Text& to, Int count) {
  const std::string& bytes = text->bytes;
  charge_search(meter, bytes.size(), from.bytes.size());
  TextBuilder out(meter);
  std::size_t at = 0;
  if (from.bytes.empty()) {  // between all code points, and at both ends
    while (count-- != 0) {
      meter.step();
      out.append(to);
      if (at >= bytes.size()) break;
      const std::size_t begin = at;
      decode(bytes, at);
      out.append(*text, begin, at);
    }
  } else {
    while (count-- != 0) {
      const std::size_t found = bytes.find(from.bytes, at);
      if (found == std::string::npos) break;
      meter.step();
      out.append(*text, at, found);
      out.append(to);
      at = found + from.bytes.size();
    }
    if (at == 0) return text;
  }
  out.append(*text, at, bytes.size());
  return out.finish();
}

void for_each_line(Meter& meter, const Text& text,
                   const std::function<void(std::size_t, std::size_t, std::size_t)>& line) {
  const std::string& bytes = text.bytes;
  meter.work(2 * bytes.size());
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t end = at;
    const char32_t c = decode(bytes, at);
    if (!is_line_break(c)) continue;
    if (c == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    line(begin, end, at);
    begin = at;
  }
  if (begin < bytes.size()) line(begin, bytes.size(), bytes.size());
}

void append_padding(TextBuilder& out, Int width, std::string_view filler, bool from_template) {
  std::string block;
  for (int i = 0; i < 64; ++i) block += filler;
  while (width > 0) {
    const Int now = std::min<Int>(width, 64);
    out.append(std::string_view(block).substr(0, static_cast<std::size_t>(now) * filler.size()),
               from_template);
    width -= now;
  }
}

void charge_search(Meter& meter, std::size_t text_bytes, std::size_t part_bytes) {
  // std::string::find is quadratic at worst, as for "aaa...ab" in "aaa...a".
  meter.work(text_bytes);
  if (part_bytes > 16) meter.step(text_bytes / 64 * (part_bytes / 16));
}

}  // namespace plimsoll::jinja
