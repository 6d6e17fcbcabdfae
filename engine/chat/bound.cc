// Binding of call arguments, and the conversions that filters and methods share.
#include <charconv>
#include <cmath>

#include "engine/chat/builtins.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = skip_space(text, 0);
  return text.substr(begin, trim_space_right(text, begin, text.size()) - begin);
}

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

// Drops the single underscores between digits; nothing if one stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !is_alphanumeric(text[i - 1]) ||
               !is_alphanumeric(text[i + 1])) {
      return std::nullopt;
    }
  }
  return out;
}

}  // namespace

Bound::Bound(std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> parameters, std::size_t required) {
  const std::string name(function);
  if (arguments.positional.size() > parameters.size()) {
    fail_render(name + "() takes at most " + std::to_string(parameters.size()) + " arguments (" +
                std::to_string(arguments.positional.size()) + " given)");
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
    values_[i] = &arguments.positional[i];
  }
  for (const auto& [key, value] : arguments.named) {
    std::size_t i = 0;
    for (; i < parameters.size() && (parameters.begin()[i].empty() || parameters.begin()[i] != key);
         ++i) {
    }
    if (i == parameters.size()) {
      fail_render(name + "() got an unexpected keyword argument '" + key + "'");
    }
    if (values_[i] != nullptr) {
      fail_render(name + "() got multiple values for argument '" + key + "'");
    }
    values_[i] = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      fail_render(name + "() is missing its argument " + std::to_string(i + 1));
    }
  }
}

Int int_argument(const Value* value, Int fallback, std::string_view what) {
  if (value == nullptr) return fallback;
  const auto integer = as_int(*value);
  if (integer) return *integer;
  if (value->is_undefined()) fail_undefined(*value);
  fail_render(std::string(what) + ": '" + std::string(type_name(*value)) +
              "' object cannot be interpreted as an integer");
}

const Text& text_argument(const Value& value, std::string_view what) {
  if (value.is_string()) return value.text();
  fail_render(std::string(what) + " must be str, not " + std::string(type_name(value)));
}

std::optional<Int> parse_int(std::string_view source, int base) {
  std::string_view rest = trimmed(source);
  bool negative = false;
  if (!rest.empty() && (rest[0] == '-' || rest[0] == '+')) {
    negative = rest[0] == '-';
    rest.remove_prefix(1);
  }
  if (rest.size() > 2 && rest[0] == '0') {
    const char mark = static_cast<char>(rest[1] | 0x20);
    const int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) {
      rest.remove_prefix(2);
      base = marked;
      if (!rest.empty() && rest[0] == '_') rest.remove_prefix(1);
    }
  }
  const auto digits = without_underscores(rest);
  if (!digits || digits->empty()) return std::nullopt;
  if (base == 0) {
    if (digits->size() > 1 && (*digits)[0] == '0' &&
        digits->find_first_not_of('0') != std::string::npos) {
      return std::nullopt;
    }
    base = 10;
  }
  Int value = 0;
  for (const char c : *digits) {
    const int digit = c >= '0' && c <= '9' ? c - '0'
                      : is_alphanumeric(c) ? (c | 0x20) - 'a' + 10
                                           : 99;
    if (digit >= base) return std::nullopt;
    if (__builtin_mul_overflow(value, base, &value) ||
        __builtin_add_overflow(value, digit, &value)) {
      fail_unsupported("an integer of more than 128 bits");
    }
  }
  return negative ? -value : value;
}

std::optional<double> parse_float(std::string_view source) {
  const auto text = without_underscores(trimmed(source));
  if (!text || text->empty()) return std::nullopt;
  const char* begin = text->data();
  const char* end = begin + text->size();
  bool negative = false;
  if (*begin == '-' || *begin == '+') negative = *begin++ == '-';
  if (begin == end || *begin == '-') return std::nullopt;
  double value = 0;
  const auto result = std::from_chars(begin, end, value);  // "inf", "nan", "infinity" too
  if (result.ec == std::errc::result_out_of_range) {
    const std::string_view digits(begin, static_cast<std::size_t>(end - begin));
    value = digits.find("e-") == std::string_view::npos ? HUGE_VAL : 0.0;
  } else if (result.ec != std::errc() || result.ptr != end) {
    return std::nullopt;
  }
  if (text->find('(') != std::string::npos) return std::nullopt;  // "nan(...)" is C's alone
  return negative ? -value : value;
}

}  // namespace plimsoll::jinja
