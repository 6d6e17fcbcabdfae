// Values as text: Python's str() and repr(), and json.dumps.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/chat/value.h"

namespace plimsoll::jinja {

// str(value): a string as it is, with its origins; anything else as a variable's text.
String to_text(Meter& meter, const Value& value);
void append_text(TextBuilder& out, Meter& meter, const Value& value);

String repr(Meter& meter, const Value& value);

std::string to_string(Int value);
std::string to_string(double value);  // the shortest that reads back, as Python's repr

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // one level's
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
String to_json(Meter& meter, const Value& value, const JsonStyle& style);

}  // namespace plimsoll::jinja
