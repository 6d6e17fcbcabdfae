// printf-style `%` and str.format, for strings and numbers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "engine/chat/builtins.h"
#include "engine/chat/print.h"
#include "engine/chat/text_operations.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

constexpr Int max_precision = 400;  // more digits than a double has

struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =; none: by the type
  char sign = '-';
  bool alternate = false;
  bool grouped = false;
  Int width = 0;
  std::optional<int> precision;
  char type = '\0';
};

std::string group_thousands(const std::string& digits) {
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string in_base(Int value, unsigned base, bool capitals) {
  const std::string_view alphabet = capitals ? "0123456789ABCDEF" : "0123456789abcdef";
  auto rest = static_cast<unsigned __int128>(value);
  if (value < 0) rest = -rest;
  std::string out;
  do {
    out += alphabet[static_cast<std::size_t>(rest % base)];
    rest /= base;
  } while (rest != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

// The digits without sign; `value` is not negative.
std::string format_real(double value, const Spec& spec) {
  const char type = spec.type == '\0' || spec.type == '%' ? 'f' : spec.type;
  char pattern[8] = "%.*f";
  pattern[3] = type == 'F' ? 'f' : type;
  char buffer[1024];
  std::snprintf(buffer, sizeof buffer, pattern, spec.precision.value_or(6), value);
  std::string text = buffer;
  if (spec.grouped) {
    const std::size_t whole = std::min(text.find('.'), text.size());
    text = group_thousands(text.substr(0, whole)) + text.substr(whole);
  }
  return text;
}

std::string integer_digits(Int value, const Spec& spec) {
  const unsigned base = spec.type == 'x' || spec.type == 'X' ? 16
                        : spec.type == 'o'                   ? 8
                        : spec.type == 'b'                   ? 2
                                                             : 10;
  std::string digits = in_base(value, base, spec.type == 'X');
  if (spec.grouped) digits = group_thousands(digits);
  if (spec.precision && digits.size() < static_cast<std::size_t>(*spec.precision)) {
    digits.insert(0, static_cast<std::size_t>(*spec.precision) - digits.size(), '0');
  }
  if (spec.alternate && base != 10) {
    digits.insert(0, spec.type == 'X' ? "0X" : spec.type == 'x' ? "0x" : base == 8 ? "0o" : "0b");
  }
  return digits;
}

void append_aligned(TextBuilder& out, const std::string& sign, const Text& body, const Spec& spec,
                    char default_align) {
  const char align = spec.align != '\0' ? spec.align : default_align;
  const Int missing =
      std::max<Int>(0, spec.width - static_cast<Int>(sign.size()) - static_cast<Int>(body.length));
  const Int left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  append_padding(out, left, spec.fill, false);
  out.append(sign, false);
  if (align == '=') append_padding(out, missing, spec.fill, false);
  out.append(body);
  if (align != '=') append_padding(out, missing - left, spec.fill, false);
}

void append_number(TextBuilder& out, Meter& meter, bool negative, const std::string& digits,
                   const Spec& spec) {
  const std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  append_aligned(out, sign, *make_text(meter, digits, false), spec, '>');
}

void append_string(TextBuilder& out, Meter& meter, const String& text, const Spec& spec) {
  String body = text;
  if (spec.precision && static_cast<std::size_t>(*spec.precision) < text->length) {
    meter.work(text->bytes.size());
    body = substring(meter, text, 0,
                     byte_offset(text->bytes, static_cast<std::size_t>(*spec.precision)));
  }
  append_aligned(out, "", *body, spec, '<');
}

void append_real(TextBuilder& out, Meter& meter, double value, const Spec& spec) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  std::string digits;
  if (spec.type == '\0' && !spec.precision) {
    digits = to_string(std::fabs(value));
  } else if (spec.type == '\0') {
    Spec general = spec;
    general.type = 'g';
    digits = format_real(std::fabs(value), general);
  } else {
    digits = format_real(std::fabs(spec.type == '%' ? value * 100 : value), spec);
  }
  if (spec.type == '%') digits += '%';
  append_number(out, meter, negative, digits, spec);
}

Int parse_count(std::string_view text, std::size_t& at) {
  Int value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + (text[at++] - '0');
    if (value > (Int{1} << 40)) fail_limit("a width in a format is too large");
  }
  return value;
}

int checked_precision(Int value) {
  if (value > max_precision) fail_unsupported("a precision over 400 in a format");
  return static_cast<int>(value);
}

char char_at(std::string_view text, std::size_t at) { return at < text.size() ? text[at] : '\0'; }

class PercentFormatter {
 public:
  PercentFormatter(Meter& meter, const Text& format, const Value& arguments)
      : meter_(meter), format_(format), arguments_(arguments), out_(meter) {
    if (const Sequence* list = arguments.sequence(); list != nullptr && list->is_tuple) {
      tuple_ = list;
    }
  }

  String run() {
    const std::string& text = format_.bytes;
    while (at_ < text.size()) {
      meter_.step();
      const std::size_t percent = std::min(text.find('%', at_), text.size());
      out_.append(format_, at_, percent);
      at_ = percent;
      if (at_ == text.size()) break;
      if (char_at(text, at_ + 1) == '%') {
        out_.append(format_, at_, at_ + 1);
        at_ += 2;
      } else {
        ++at_;
        conversion();
      }
    }
    const bool is_mapping =
        tuple_ == nullptr && (arguments_.dict() != nullptr || arguments_.sequence() != nullptr ||
                              arguments_.is_undefined() || arguments_.is<Range>());
    if (!is_mapping && used_ < (tuple_ != nullptr ? tuple_->items.size() : 1)) {
      fail_render("not all arguments converted during string formatting");
    }
    return out_.finish();
  }

 private:
  Value next() {
    if (key_) return *key_;
    const std::size_t count = tuple_ != nullptr ? tuple_->items.size() : 1;
    if (used_ >= count) fail_render("not enough arguments for format string");
    return tuple_ != nullptr ? tuple_->items[used_++] : (++used_, arguments_);
  }

  void conversion() {
    const std::string& text = format_.bytes;
    Spec spec;
    key_.reset();
    if (char_at(text, at_) == '(') {
      const std::size_t end = text.find(')', at_);
      if (end == std::string::npos) fail_render("incomplete format key");
      const Dict* dict = arguments_.dict();
      if (dict == nullptr) fail_render("format requires a mapping");
      const std::string key = text.substr(at_ + 1, end - at_ - 1);
      const Value* found = dict->find(key);
      if (found == nullptr) fail_render("no key '" + key + "' for the format");
      key_ = *found;
      at_ = end + 1;
    }
    for (;; ++at_) {
      const char c = char_at(text, at_);
      if (c == '-') {
        spec.align = '<';
      } else if (c == '0') {
        spec.fill = "0";
        if (spec.align == '\0') spec.align = '=';
      } else if (c == '+' || c == ' ') {
        if (spec.sign != '+') spec.sign = c;
      } else if (c == '#') {
        spec.alternate = true;
      } else {
        break;
      }
    }
    if (spec.align == '<') spec.fill = " ";
    spec.width = count(text);
    if (char_at(text, at_) == '.') {
      ++at_;
      spec.precision = checked_precision(count(text));
    }
    while (char_at(text, at_) == 'l' || char_at(text, at_) == 'h') ++at_;
    spec.type = char_at(text, at_++);
    append(next(), spec);
  }

  Int count(const std::string& text) {
    if (char_at(text, at_) != '*') return parse_count(text, at_);
    ++at_;
    const Value value = next();
    return std::clamp<Int>(int_argument(&value, 0, "*"), 0, Int{1} << 40);
  }

  void append(const Value& value, Spec& spec) {
    const auto text_spec = [&] {
      spec.fill = " ";
      if (spec.align != '<') spec.align = '>';
      return spec;
    };
    switch (spec.type) {
      case 's': return append_string(out_, meter_, to_text(meter_, value), text_spec());
      case 'r':
      case 'a': return append_string(out_, meter_, repr(meter_, value), text_spec());
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o': {
        auto integer = as_int(value);
        if (const auto* d = value.get_if<double>(); d != nullptr && std::fabs(*d) < 0x1p120 &&
                                                    spec.type != 'x' && spec.type != 'X' &&
                                                    spec.type != 'o') {
          integer = static_cast<Int>(*d);
        }
        if (!integer) {
          fail_render("%" + std::string(1, spec.type) + " format: a number is required, not " +
                      std::string(type_name(value)));
        }
        return append_number(out_, meter_, *integer < 0, integer_digits(*integer, spec), spec);
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': {
        const auto number = as_number(value);
        if (!number) fail_render("must be real number, not " + std::string(type_name(value)));
        if (spec.align == '\0') spec.align = '>';
        return append_real(out_, meter_, *number, spec);
      }
      case '\0': fail_render("incomplete format");
      default: fail_unsupported("the format %" + std::string(1, spec.type));
    }
  }

  Meter& meter_;
  const Text& format_;
  const Value& arguments_;
  TextBuilder out_;
  const Sequence* tuple_ = nullptr;
  std::size_t used_ = 0;
  std::size_t at_ = 0;
  std::optional<Value> key_;
};

Spec parse_spec(std::string_view text) {
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  Spec spec;
  std::size_t at = 0;
  if (!text.empty()) {
    std::size_t after_fill = 0;
    decode(text, after_fill);
    if (is_align(char_at(text, after_fill))) {
      spec.fill = text.substr(0, after_fill);
      spec.align = text[after_fill];
      at = after_fill + 1;
    } else if (is_align(text[0])) {
      spec.align = text[0];
      at = 1;
    }
  }
  const char sign = char_at(text, at);
  if (sign == '+' || sign == '-' || sign == ' ') spec.sign = text[at++];
  if (char_at(text, at) == '#') spec.alternate = true, ++at;
  if (char_at(text, at) == '0' && spec.align == '\0') {
    spec.fill = "0";
    spec.align = '=';
    ++at;
  }
  spec.width = parse_count(text, at);
  if (char_at(text, at) == ',') spec.grouped = true, ++at;
  if (char_at(text, at) == '.') {
    ++at;
    spec.precision = checked_precision(parse_count(text, at));
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) fail_render("Invalid format specifier '" + std::string(text) + "'");
  return spec;
}

void format_value(TextBuilder& out, Meter& meter, const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return append_text(out, meter, value);
  const Spec spec = parse_spec(spec_text);
  const std::string_view type(&spec.type, 1);
  const bool is_real_type = std::string_view("eEfFgG%").find(type) != std::string_view::npos;
  if (value.is_string() && (spec.type == 's' || spec.type == '\0')) {
    return append_string(out, meter, value.as<String>(), spec);
  }
  if (const auto integer = as_int(value); integer && !is_real_type) {
    const bool known = std::string_view("dxXob").find(type) != std::string_view::npos;
    if (known || spec.type == '\0') {
      return append_number(out, meter, *integer < 0, integer_digits(*integer, spec), spec);
    }
  } else if (const auto number = as_number(value); number && (is_real_type || spec.type == '\0')) {
    return append_real(out, meter, *number, spec);
  }
  fail_render("the format '" + std::string(spec_text) + "' is not one for a " +
              std::string(type_name(value)));
}

class BraceFormatter {
 public:
  BraceFormatter(Meter& meter, const Text& format, const Arguments& arguments)
      : meter_(meter), format_(format), arguments_(arguments), out_(meter) {}

  String run() {
    const std::string& text = format_.bytes;
    while (at_ < text.size()) {
      meter_.step();
      const std::size_t brace = std::min(text.find_first_of("{}", at_), text.size());
      out_.append(format_, at_, brace);
      at_ = brace;
      if (at_ == text.size()) break;
      if (char_at(text, at_ + 1) == text[at_]) {
        out_.append(format_, at_, at_ + 1);
        at_ += 2;
      } else if (text[at_] == '}') {
        fail_render("Single '}' encountered in format string");
      } else {
        ++at_;
        field();
      }
    }
    return out_.finish();
  }

 private:
  void field() {
    const std::string& text = format_.bytes;
    const std::size_t end = text.find_first_of("{}", at_);
    if (end == std::string::npos) fail_render("expected '}' before end of string");
    if (text[end] == '{') fail_unsupported("a field within a format's field");
    std::string_view field = std::string_view(text).substr(at_, end - at_);
    at_ = end + 1;
    std::string_view spec;
    if (const std::size_t colon = field.find(':'); colon != std::string_view::npos) {
      spec = field.substr(colon + 1);
      field = field.substr(0, colon);
    }
    char conversion = '\0';
    if (const std::size_t mark = field.find('!'); mark != std::string_view::npos) {
      conversion = char_at(field, mark + 1);
      if (field.size() != mark + 2) fail_render("expected ':' after conversion specifier");
      field = field.substr(0, mark);
    }
    Value value = look_up(field);
    if (conversion == 'r' || conversion == 'a') {
      value = Value(repr(meter_, value));
    } else if (conversion == 's') {
      value = Value(to_text(meter_, value));
    } else if (conversion != '\0') {
      fail_render("Unknown conversion specifier '" + std::string(1, conversion) + "'");
    }
    format_value(out_, meter_, value, spec);
  }

  Value look_up(std::string_view field) {
    const std::size_t rest = std::min(field.find_first_of(".["), field.size());
    Value value = first(field.substr(0, rest));
    field.remove_prefix(rest);
    while (!field.empty()) {
      if (field[0] == '.') {
        const std::size_t end = std::min(field.find_first_of(".[", 1), field.size());
        value = get_attribute(meter_, value, field.substr(1, end - 1));
        field.remove_prefix(end);
      } else {
        const std::size_t end = field.find(']');
        if (field[0] != '[' || end == std::string_view::npos)
          fail_render("Missing ']' in format string");
        const std::string_view key = field.substr(1, end - 1);
        const auto index = parse_int(key, 10);
        value =
            get_item(meter_, value, index ? Value(*index) : Value(make_text(meter_, key, false)));
        field.remove_prefix(end + 1);
      }
    }
    return value;
  }

  Value first(std::string_view name) {
    if (name.empty()) return positional(next_++);
    if (name[0] >= '0' && name[0] <= '9') {
      std::size_t at = 0;
      const Int index = parse_count(name, at);
      if (at == name.size()) return positional(static_cast<std::size_t>(index));
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    fail_render("no argument '" + std::string(name) + "' for the format");
  }

  Value positional(std::size_t index) {
    if (index >= arguments_.positional.size()) {
      fail_render("Replacement index " + std::to_string(index) +
                  " out of range for positional args tuple");
    }
    return arguments_.positional[index];
  }

  Meter& meter_;
  const Text& format_;
  const Arguments& arguments_;
  TextBuilder out_;
  std::size_t at_ = 0;
  std::size_t next_ = 0;
};

}  // namespace

String format_percent(Meter& meter, const Text& format, const Value& arguments) {
  return PercentFormatter(meter, format, arguments).run();
}

String format_braces(Meter& meter, const Text& format, const Arguments& arguments) {
  return BraceFormatter(meter, format, arguments).run();
}

}  // namespace plimsoll::jinja
