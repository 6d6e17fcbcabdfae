// The filters of single values: text, numbers and JSON. Those of sequences are in
// sequence_filters.cc.
#include "engine/chat/filters.h"

#include <algorithm>
#include <cmath>

#include "engine/chat/builtins.h"
#include "engine/chat/print.h"
#include "engine/chat/text_operations.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

bool flag(const Value* value) { return value != nullptr && truthy(*value); }

template <String (*function)(Meter&, const Text&)>
Value mapped(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("the filter", arguments, {});
  return Value(function(meter, *to_text(meter, value)));
}

Value trim(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("trim", arguments, {"chars"});
  const bool given = args[0] != nullptr && !args[0]->is_none();
  const Text* chars = given ? &text_argument(*args[0], "chars") : nullptr;
  return Value(strip(meter, to_text(meter, value), chars, true, true));
}

// Words begin after one of -, whitespace, ( { [ <.
String title_text(Meter& meter, const Text& text) {
  const auto begins_word = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
  };
  meter.work(4 * text.bytes.size());
  TextBuilder out(meter);
  std::string mapped;
  bool first = true;
  for (std::size_t at = 0; at < text.bytes.size();) {
    const bool origin = text.from_template_at(at);
    const char32_t c = decode(text.bytes, at);
    mapped.clear();
    first ? append_upper(mapped, c) : append_lower(mapped, c);
    first = begins_word(c);
    out.append(mapped, origin);
  }
  return out.finish();
}

Value replace_filter(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("replace", arguments, {"old", "new", "count"}, 2);
  const Value* count = args[2] != nullptr && !args[2]->is_none() ? args[2] : nullptr;
  return Value(replace(meter, to_text(meter, value), *to_text(meter, *args[0]),
                       *to_text(meter, *args[1]), int_argument(count, -1, "count")));
}

Value indent(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("indent", arguments, {"width", "first", "blank"});
  if (value.is_undefined()) fail_undefined(value);
  const String newline = make_literal("\n");
  const Value input = add(meter, Value(to_text(meter, value)), Value(newline));
  if (!value.is_string()) fail_render("indent needs a string");
  String by;
  if (args[0] != nullptr && args[0]->is_string()) {
    by = args[0]->as<String>();
  } else {
    TextBuilder spaces(meter);
    append_padding(spaces, int_argument(args[0], 4, "width"), " ", true);
    by = spaces.finish();
  }
  TextBuilder out(meter);
  if (flag(args[1])) out.append(*by);
  bool is_first = true;
  for_each_line(meter, input.text(), [&](std::size_t begin, std::size_t end, std::size_t) {
    if (!is_first) {
      out.append(*newline);
      if (flag(args[2]) || begin != end) out.append(*by);
    }
    is_first = false;
    out.append(input.text(), begin, end);
  });
  return Value(out.finish());
}

Value string(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("string", arguments, {});
  return Value(to_text(meter, value));
}

Value as_markup(Meter& meter, const Text& text) {
  TextBuilder out(meter);
  out.append(text);
  String copy = out.finish();
  std::const_pointer_cast<Text>(copy)->markup = true;
  return Value(std::move(copy));
}

Value wordcount(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("wordcount", arguments, {});
  const String text = to_text(meter, value);
  meter.work(text->bytes.size());
  Int count = 0;
  bool in_word = false;
  for (std::size_t at = 0; at < text->bytes.size();) {
    const bool is_part = is_word(decode(text->bytes, at));
    if (is_part && !in_word) ++count;
    in_word = is_part;
  }
  return Value(count);
}

Value format(Meter& meter, const Value& value, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    fail_render("format: can't handle positional and keyword arguments at the same time");
  }
  const String text = to_text(meter, value);
  if (!arguments.named.empty()) {
    DictBuilder dict(meter);
    for (const auto& [key, named] : arguments.named) {
      dict.set(Value(make_text(meter, key, true)), named);
    }
    return Value(format_percent(meter, *text, dict.finish()));
  }
  ListBuilder list(meter);
  for (const Value& positional : arguments.positional) list.push(positional);
  return Value(format_percent(meter, *text, list.tuple()));
}

Value default_value(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("default", arguments, {"default_value", "boolean"});
  const bool missing = value.is_undefined() || (flag(args[1]) && !truthy(value));
  if (!missing) return value;
  return args[0] != nullptr ? *args[0] : Value(make_literal(""));
}

std::optional<Int> truncated(double d) {
  if (std::isnan(d) || std::isinf(d)) return std::nullopt;
  if (std::fabs(d) >= 0x1p126) fail_unsupported("an integer of more than 128 bits");
  return static_cast<Int>(d);
}

Value to_int(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("int", arguments, {"default", "base"});
  const Value fallback = args[0] != nullptr ? *args[0] : Value(Int{0});
  if (value.is_undefined()) fail_undefined(value);
  if (const auto integer = as_int(value)) return Value(*integer);
  std::optional<Int> result;
  if (const auto* d = value.get_if<double>()) {
    if (std::isinf(*d)) fail_render("cannot convert float infinity to integer");
    result = truncated(*d);
  } else if (value.is_string()) {
    const Int base = int_argument(args[1], 10, "base");
    if (base != 0 && (base < 2 || base > 36)) return fallback;
    result = parse_int(value.text().bytes, static_cast<int>(base));
    if (!result) {
      if (const auto number = parse_float(value.text().bytes)) result = truncated(*number);
    }
  }
  return result ? Value(*result) : fallback;
}

Value to_float(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("float", arguments, {"default"});
  if (value.is_undefined()) fail_undefined(value);
  auto number = as_number(value);
  if (value.is_string()) number = parse_float(value.text().bytes);
  if (number) return Value(*number);
  return args[0] != nullptr ? *args[0] : Value(0.0);
}

Value absolute(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("abs", arguments, {});
  if (const auto integer = as_int(value)) return *integer < 0 ? negate(value) : Value(*integer);
  if (const auto* d = value.get_if<double>()) return Value(std::fabs(*d));
  fail_render("bad operand type for abs(): '" + std::string(type_name(value)) + "'");
}

// Python rounds the decimal value, half to even: what printf does with the binary value.
double round_decimal(double value, int digits) {
  if (digits > 300 || std::isnan(value) || std::isinf(value)) return value;
  if (digits < 0) {
    const double scale = std::pow(10.0, -digits);
    return std::isinf(scale) ? std::copysign(0.0, value) : std::nearbyint(value / scale) * scale;
  }
  char buffer[1024];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return std::strtod(buffer, nullptr);
}

Value round_filter(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("round", arguments, {"precision", "method"});
  const Int digits = std::clamp<Int>(int_argument(args[0], 0, "precision"), -400, 400);
  const std::string method =
      args[1] != nullptr ? text_argument(*args[1], "method").bytes : "common";
  const auto number = as_number(value);
  if (!number) {
    fail_render("type " + std::string(type_name(value)) + " doesn't define __round__ method");
  }
  if (method == "common") {
    if (const auto integer = as_int(value)) {
      if (digits >= 0) return Value(*integer);
      return Value(static_cast<Int>(round_decimal(*number, static_cast<int>(digits))));
    }
    return Value(round_decimal(*number, static_cast<int>(digits)));
  }
  if (method != "ceil" && method != "floor") fail_render("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = *number * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

std::string separator(const Value& pair, std::size_t which) {
  const Sequence* both = pair.sequence();
  if (both == nullptr || both->items.size() != 2) {
    fail_render("tojson: separators must be a pair of strings");
  }
  return text_argument(both->items[which], "a separator").bytes;
}

// transformers' own tojson: json.dumps, and no HTML escapes.
Value tojson(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(args[0]);
  style.sort_keys = flag(args[3]);
  if (args[1] != nullptr && !args[1]->is_none()) {
    if (args[1]->is_string()) {
      style.indent = args[1]->text().bytes;
    } else {
      const Int width = int_argument(args[1], 0, "indent");
      if (width > 1000) fail_limit("tojson: the indent is too large");
      style.indent = std::string(static_cast<std::size_t>(std::max<Int>(0, width)), ' ');
    }
    style.item_separator = ",";
  }
  if (args[2] != nullptr && !args[2]->is_none()) {
    style.item_separator = separator(*args[2], 0);
    style.key_separator = separator(*args[2], 1);
  }
  return Value(to_json(meter, value, style));
}

Value center(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("center", arguments, {"width"});
  Arguments width;
  width.positional.push_back(args[0] != nullptr ? *args[0] : Value(Int{80}));
  return call_string_method(meter, to_text(meter, value), "center", width);
}

Value truncate(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const String dots = make_literal("...");
  const Text& end = args[2] != nullptr ? text_argument(*args[2], "end") : *dots;
  const Int length = int_argument(args[0], 255, "length");
  const Value* leeway_given = args[3] != nullptr && !args[3]->is_none() ? args[3] : nullptr;
  const Int leeway = int_argument(leeway_given, 5, "leeway");
  if (length < static_cast<Int>(end.length)) fail_render("truncate: the length is too small");
  if (leeway < 0) fail_render("truncate: the leeway is negative");
  if (static_cast<Int>(jinja::length(value)) <= length + leeway) return value;
  if (!value.is_string()) fail_render("truncate needs a string");
  const String& text = value.as<String>();
  meter.work(text->bytes.size());
  std::size_t stop = byte_offset(text->bytes, static_cast<std::size_t>(length) - end.length);
  if (!flag(args[1]) && stop > 0) {
    const std::size_t space = text->bytes.rfind(' ', stop - 1);
    if (space != std::string::npos) stop = space;
  }
  TextBuilder out(meter);
  out.append(*text, 0, stop);
  out.append(end);
  return Value(out.finish());
}

Value safe(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("safe", arguments, {});
  return as_markup(meter, *to_text(meter, value));
}

Value escape(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("escape", arguments, {});
  const String text = to_text(meter, value);
  if (text->markup) return value;
  return add(meter, as_markup(meter, *make_literal("")), Value(text));
}

constexpr std::pair<std::string_view, Builtin> table[] = {
    {"abs", absolute},
    {"batch", filters::batch},
    {"capitalize", mapped<capitalize>},
    {"center", center},
    {"count", filters::length},
    {"d", default_value},
    {"default", default_value},
    {"dictsort", filters::dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", filters::first},
    {"float", to_float},
    {"format", format},
    {"groupby", filters::groupby},
    {"indent", indent},
    {"int", to_int},
    {"items", filters::items},
    {"join", filters::join},
    {"last", filters::last},
    {"length", filters::length},
    {"list", filters::list},
    {"lower", mapped<lower>},
    {"map", filters::map},
    {"max", filters::max},
    {"min", filters::min},
    {"reject", filters::reject},
    {"rejectattr", filters::rejectattr},
    {"replace", replace_filter},
    {"reverse", filters::reverse},
    {"round", round_filter},
    {"safe", safe},
    {"select", filters::select},
    {"selectattr", filters::selectattr},
    {"slice", filters::slice},
    {"sort", filters::sort},
    {"string", string},
    {"sum", filters::sum},
    {"title", mapped<title_text>},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"unique", filters::unique},
    {"upper", mapped<upper>},
    {"wordcount", wordcount},
};

}  // namespace

Builtin find_filter(std::string_view name) {
  const auto found = std::find_if(std::begin(table), std::end(table),
                                  [&](const auto& f) { return f.first == name; });
  return found != std::end(table) ? found->second : nullptr;
}

}  // namespace plimsoll::jinja
