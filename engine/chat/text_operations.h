// What strings become: changes of case, stripping, replacing, lines. Every piece keeps its origin.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

#include "engine/chat/text.h"

namespace plimsoll::jinja {

String upper(Meter& meter, const Text& text);
String lower(Meter& meter, const Text& text);
String capitalize(Meter& meter, const Text& text);
String title(Meter& meter, const Text& text);  // as str.title: a word begins after a non-letter
String swap_case(Meter& meter, const Text& text);

// Without the code points in `chars` (null: whitespace) at its ends.
String strip(Meter& meter, const String& text, const Text* chars, bool left, bool right);
// The first `count` occurrences replaced; all of them if it is negative.
String replace(Meter& meter, const String& text, const Text& from, const Text& to, Int count);

// Calls `line` with the bytes of each line [begin, end) and where the next begins.
void for_each_line(Meter& meter, const Text& text,
                   const std::function<void(std::size_t, std::size_t, std::size_t)>& line);

// Appends `filler` (one code point) `width` times; a negative width adds nothing.
void append_padding(TextBuilder& out, Int width, std::string_view filler, bool from_template);

// Steps for one search of `part` all through `text`, which may be quadratic.
void charge_search(Meter& meter, std::size_t text_bytes, std::size_t part_bytes);

}  // namespace plimsoll::jinja
