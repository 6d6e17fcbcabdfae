// The methods of Python's str.
#include <algorithm>
#include <array>

#include "engine/chat/builtins.h"
#include "engine/chat/print.h"
#include "engine/chat/text_operations.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

using Arg = const Value*;

bool given(Arg value) { return value != nullptr && !value->is_none(); }

Value split_space(Meter& meter, const String& text, Int limit, bool from_right) {
  const std::string& bytes = text->bytes;
  meter.work(2 * bytes.size());
  ListBuilder out(meter);
  if (!from_right) {
    std::size_t at = skip_space(bytes, 0);
    while (at < bytes.size()) {
      if (limit-- == 0) {
        out.push(Value(substring(meter, text, at, bytes.size())));
        break;
      }
      std::size_t end = at;
      for (std::size_t next = at; next < bytes.size(); end = next) {
        if (is_space(decode(bytes, next))) break;
      }
      out.push(Value(substring(meter, text, at, end)));
      at = skip_space(bytes, end);
    }
    return out.list();
  }
  std::size_t end = trim_space_right(bytes, 0, bytes.size());
  while (end > 0) {
    if (limit-- == 0) {
      out.push(Value(substring(meter, text, 0, end)));
      break;
    }
    std::size_t begin = end;
    while (begin > 0) {
      std::size_t last = begin - 1;
      while ((static_cast<unsigned char>(bytes[last]) & 0xC0) == 0x80) --last;
      std::size_t next = last;
      if (is_space(decode(bytes, next))) break;
      begin = last;
    }
    out.push(Value(substring(meter, text, begin, end)));
    end = trim_space_right(bytes, 0, begin);
  }
  std::reverse(out.items().begin(), out.items().end());
  return out.list();
}

Value split_at(Meter& meter, const String& text, const Text& separator, Int limit,
               bool from_right) {
  const std::string& bytes = text->bytes;
  const std::string& part = separator.bytes;
  if (part.empty()) fail_render("empty separator");
  charge_search(meter, bytes.size(), part.size());
  ListBuilder out(meter);
  if (!from_right) {
    std::size_t at = 0;
    while (limit-- != 0) {
      const std::size_t found = bytes.find(part, at);
      if (found == std::string::npos) break;
      out.push(Value(substring(meter, text, at, found)));
      at = found + part.size();
    }
    out.push(Value(substring(meter, text, at, bytes.size())));
    return out.list();
  }
  std::size_t end = bytes.size();
  while (limit-- != 0 && end >= part.size()) {
    const std::size_t found = bytes.rfind(part, end - part.size());
    if (found == std::string::npos) break;
    out.push(Value(substring(meter, text, found + part.size(), end)));
    end = found;
  }
  out.push(Value(substring(meter, text, 0, end)));
  std::reverse(out.items().begin(), out.items().end());
  return out.list();
}

Value split_either(Meter& meter, const String& self, const Arguments& arguments, bool from_right) {
  const Bound args("split", arguments, {"sep", "maxsplit"});
  const Int limit = int_argument(args[1], -1, "maxsplit");
  if (!given(args[0])) return split_space(meter, self, limit, from_right);
  return split_at(meter, self, text_argument(*args[0], "sep"), limit, from_right);
}
Value split(Meter& meter, const String& self, const Arguments& args) {
  return split_either(meter, self, args, false);
}
Value rsplit(Meter& meter, const String& self, const Arguments& args) {
  return split_either(meter, self, args, true);
}

Value splitlines(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("splitlines", arguments, {"keepends"});
  const bool keep = args[0] != nullptr && truthy(*args[0]);
  ListBuilder out(meter);
  for_each_line(meter, *self, [&](std::size_t begin, std::size_t end, std::size_t next) {
    out.push(Value(substring(meter, self, begin, keep ? next : end)));
  });
  return out.list();
}

Value partition_at(Meter& meter, const String& self, const Arguments& arguments, bool last) {
  const Bound args("partition", arguments, {""}, 1);
  const std::string& part = text_argument(*args[0], "sep").bytes;
  if (part.empty()) fail_render("empty separator");
  charge_search(meter, self->bytes.size(), part.size());
  const std::size_t found = last ? self->bytes.rfind(part) : self->bytes.find(part);
  const std::size_t size = self->bytes.size();
  ListBuilder out(meter);
  const auto push = [&](std::size_t begin, std::size_t end) {
    out.push(Value(substring(meter, self, begin, end)));
  };
  if (found != std::string::npos) {
    push(0, found);
    out.push(*args[0]);
    push(found + part.size(), size);
  } else if (last) {
    push(0, 0);
    push(0, 0);
    push(0, size);
  } else {
    push(0, size);
    push(0, 0);
    push(0, 0);
  }
  return out.tuple();
}
Value partition(Meter& meter, const String& self, const Arguments& args) {
  return partition_at(meter, self, args, false);
}
Value rpartition(Meter& meter, const String& self, const Arguments& args) {
  return partition_at(meter, self, args, true);
}

template <bool left, bool right>
Value strip_method(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("strip", arguments, {""});
  return Value(strip(meter, self, given(args[0]) ? &text_argument(*args[0], "chars") : nullptr,
                     left, right));
}

// The bytes of self[start:end] as the arguments from `first` on say, and whether that is valid.
struct Window {
  std::size_t begin, end;
  bool valid;
};
Window window(Meter& meter, const Text& text, Arg start, Arg stop) {
  const auto size = static_cast<Int>(text.length);
  const auto clamp = [&](Arg arg, Int fallback) {
    Int index = given(arg) ? int_argument(arg, 0, "an index") : fallback;
    if (index < 0) index = std::max<Int>(0, index + size);
    return index;
  };
  const Int from = clamp(start, 0);
  const Int to = std::min(clamp(stop, size), size);
  if (from > to) return {0, 0, false};
  meter.work(text.bytes.size());
  return {byte_offset(text.bytes, static_cast<std::size_t>(from)),
          byte_offset(text.bytes, static_cast<std::size_t>(to)), true};
}

template <bool at_start>
Value affix(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args(at_start ? "startswith" : "endswith", arguments, {"", "", ""}, 1);
  const Window in = window(meter, *self, args[1], args[2]);
  const auto matches = [&](const Value& value) {
    const std::string_view part = text_argument(value, "the argument").bytes;
    meter.step();
    meter.work(part.size());
    if (!in.valid) return false;
    const std::string_view text = std::string_view(self->bytes).substr(in.begin, in.end - in.begin);
    return at_start ? text.starts_with(part) : text.ends_with(part);
  };
  const Sequence* several = args[0]->sequence();
  if (several == nullptr || !several->is_tuple) return Value(matches(*args[0]));
  return Value(std::any_of(several->items.begin(), several->items.end(), matches));
}

template <bool last, bool must_be_there>
Value find_method(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("find", arguments, {"", "", ""}, 1);
  const std::string_view part = text_argument(*args[0], "the argument").bytes;
  const Window in = window(meter, *self, args[1], args[2]);
  std::size_t found = std::string::npos;
  if (in.valid) {
    charge_search(meter, self->bytes.size(), part.size());
    const std::string_view text = std::string_view(self->bytes).substr(in.begin, in.end - in.begin);
    found = last ? text.rfind(part) : text.find(part);
  }
  if (found == std::string::npos) {
    if (must_be_there) fail_render("substring not found");
    return Value(Int{-1});
  }
  const std::string_view before = std::string_view(self->bytes).substr(0, in.begin + found);
  return Value(static_cast<Int>(count_code_points(before)));
}

Value count(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("count", arguments, {"", "", ""}, 1);
  const Text& part = text_argument(*args[0], "the argument");
  const Window in = window(meter, *self, args[1], args[2]);
  if (!in.valid) return Value(Int{0});
  const std::string_view text = std::string_view(self->bytes).substr(in.begin, in.end - in.begin);
  if (part.bytes.empty()) return Value(static_cast<Int>(count_code_points(text) + 1));
  charge_search(meter, text.size(), part.bytes.size());
  Int found = 0;
  for (std::size_t at = text.find(part.bytes); at != std::string_view::npos;
       at = text.find(part.bytes, at + part.bytes.size())) {
    ++found;
  }
  return Value(found);
}

Value replace_method(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("replace", arguments, {"", "", ""}, 2);
  return Value(replace(meter, self, text_argument(*args[0], "old"), text_argument(*args[1], "new"),
                       int_argument(args[2], -1, "count")));
}

Value join(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("join", arguments, {""}, 1);
  const SequencePtr items = iterate(meter, *args[0]);
  TextBuilder out(meter);
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    meter.step();
    if (i > 0) out.append(*self);
    if (!items->items[i].is_string()) {
      fail_render("sequence item " + std::to_string(i) + ": expected str instance, " +
                  std::string(type_name(items->items[i])) + " found");
    }
    out.append(items->items[i].text());
  }
  return Value(out.finish());
}

Value format(Meter& meter, const String& self, const Arguments& arguments) {
  return Value(format_braces(meter, *self, arguments));
}

template <String (*function)(Meter&, const Text&)>
Value mapped(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("the method", arguments, {});
  return Value(function(meter, *self));
}

template <bool prefix>
Value remove_affix(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("removeprefix", arguments, {""}, 1);
  const std::string& part = text_argument(*args[0], "the argument").bytes;
  const std::size_t size = self->bytes.size();
  meter.work(part.size());
  if (prefix && self->bytes.starts_with(part)) {
    return Value(substring(meter, self, part.size(), size));
  }
  if (!prefix && self->bytes.ends_with(part)) {
    return Value(substring(meter, self, 0, size - part.size()));
  }
  return Value(self);
}

template <bool (*predicate)(char32_t)>
Value all_are(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("the method", arguments, {});
  meter.work(self->bytes.size());
  for (std::size_t at = 0; at < self->bytes.size();) {
    if (!predicate(decode(self->bytes, at))) return Value(false);
  }
  return Value(!self->bytes.empty());
}

bool is_alpha_or_decimal(char32_t c) { return is_alpha(c) || is_decimal(c); }

template <bool upper_case>
Value is_case(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("the method", arguments, {});
  meter.work(self->bytes.size());
  bool found = false;
  for (std::size_t at = 0; at < self->bytes.size();) {
    const char32_t c = decode(self->bytes, at);
    if ((upper_case ? is_lower(c) : is_upper(c)) || is_title(c)) return Value(false);
    found = found || (upper_case ? is_upper(c) : is_lower(c));
  }
  return Value(found);
}

enum class Align { left, right, center };

template <Align align>
Value pad(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("the method", arguments, {"", ""}, 1);
  const Int missing =
      std::max<Int>(0, int_argument(args[0], 0, "width") - static_cast<Int>(self->length));
  const String space = make_literal(" ");
  const Text& filler = args[1] != nullptr ? text_argument(*args[1], "fillchar") : *space;
  if (filler.length != 1) fail_render("The fill character must be exactly one character long");
  const bool origin = filler.from_template_at(0);
  const Int width = static_cast<Int>(self->length) + missing;
  const Int left = align == Align::left    ? 0
                   : align == Align::right ? missing
                                           : missing / 2 + (missing & width & 1);
  TextBuilder out(meter);
  append_padding(out, left, filler.bytes, origin);
  out.append(*self);
  append_padding(out, missing - left, filler.bytes, origin);
  return Value(out.finish());
}

Value zfill(Meter& meter, const String& self, const Arguments& arguments) {
  const Bound args("zfill", arguments, {""}, 1);
  const Int missing = int_argument(args[0], 0, "width") - static_cast<Int>(self->length);
  const bool sign = self->bytes.starts_with('-') || self->bytes.starts_with('+');
  TextBuilder out(meter);
  if (sign) out.append(*self, 0, 1);
  append_padding(out, missing, "0", false);
  out.append(*self, sign ? 1 : 0, self->bytes.size());
  return Value(out.finish());
}

using StringMethod = Value (*)(Meter&, const String&, const Arguments&);
constexpr std::pair<std::string_view, StringMethod> methods[] = {
    {"capitalize", mapped<capitalize>},
    {"center", pad<Align::center>},
    {"count", count},
    {"endswith", affix<false>},
    {"find", find_method<false, false>},
    {"format", format},
    {"index", find_method<false, true>},
    {"isalnum", all_are<is_alpha_or_decimal>},
    {"isalpha", all_are<is_alpha>},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_decimal>},
    {"islower", is_case<false>},
    {"isnumeric", all_are<is_decimal>},
    {"isspace", all_are<is_space>},
    {"isupper", is_case<true>},
    {"join", join},
    {"ljust", pad<Align::left>},
    {"lower", mapped<lower>},
    {"lstrip", strip_method<true, false>},
    {"partition", partition},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace_method},
    {"rfind", find_method<true, false>},
    {"rindex", find_method<true, true>},
    {"rjust", pad<Align::right>},
    {"rpartition", rpartition},
    {"rsplit", rsplit},
    {"rstrip", strip_method<false, true>},
    {"split", split},
    {"splitlines", splitlines},
    {"startswith", affix<true>},
    {"strip", strip_method<true, true>},
    {"swapcase", mapped<swap_case>},
    {"title", mapped<title>},
    {"upper", mapped<upper>},
    {"zfill", zfill},
};

constexpr std::array<std::string_view, 10> unsupported_methods = {
    "casefold",     "encode",      "expandtabs", "format_map", "isascii",
    "isidentifier", "isprintable", "istitle",    "maketrans",  "translate"};

}  // namespace

std::string_view find_string_method(std::string_view name) {
  for (const auto& [known, _] : methods) {
    if (known == name) return known;
  }
  if (std::find(unsupported_methods.begin(), unsupported_methods.end(), name) !=
      unsupported_methods.end()) {
    fail_unsupported("str." + std::string(name));
  }
  return {};
}

Value call_string_method(Meter& meter, const String& self, std::string_view name,
                         const Arguments& arguments) {
  for (const auto& [known, method] : methods) {
    if (known == name) return method(meter, self, arguments);
  }
  fail_unsupported("str." + std::string(name));
}

}  // namespace plimsoll::jinja
