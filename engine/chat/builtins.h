// The filters, tests, methods and operators that templates use, as functions of values.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/chat/value.h"

namespace plimsoll::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments by parameter, as Python binds them. Null where not given.
class Bound {
 public:
  static constexpr std::size_t max = 6;
  // The first `required` parameters must be given. A parameter named "" is positional only.
  Bound(std::string_view function, const Arguments& arguments,
        std::initializer_list<std::string_view> parameters, std::size_t required = 0);
  const Value* operator[](std::size_t parameter) const { return values_[parameter]; }

 private:
  std::array<const Value*, max> values_{};
};

// A filter: the filtered value and its arguments. A test: the same, giving a bool.
using Builtin = Value (*)(Meter&, const Value&, const Arguments&);
Builtin find_filter(std::string_view name);  // null if there is none
Builtin find_test(std::string_view name);

// obj.name and obj[key] in the sandbox: undefined where there is none.
Value get_attribute(Meter& meter, const Value& object, std::string_view name);
Value get_item(Meter& meter, const Value& object, const Value& key);
Value get_slice(Meter& meter, const Value& object, const Value& start, const Value& stop,
                const Value& step);

// Calls a method that get_attribute gave.
Value call_method(Meter& meter, const Method& method, const Arguments& arguments);
// The method's own name, which outlives every value; empty if Python's str has none such. Fails
// (unsupported) for one that Python has and this interpreter has not.
std::string_view find_string_method(std::string_view name);
Value call_string_method(Meter& meter, const String& self, std::string_view name,
                         const Arguments& arguments);

// Python's operators.
Value add(Meter& meter, const Value& a, const Value& b);
Value subtract(const Value& a, const Value& b);
Value multiply(Meter& meter, const Value& a, const Value& b);
Value divide(const Value& a, const Value& b);
Value floor_divide(const Value& a, const Value& b);
Value modulo(Meter& meter, const Value& a, const Value& b);
Value power(const Value& a, const Value& b);
Value negate(const Value& a);
bool contains(Meter& meter, const Value& container, const Value& item);

// "text" % arguments and "text".format(arguments).
String format_percent(Meter& meter, const Text& format, const Value& arguments);
String format_braces(Meter& meter, const Text& format, const Arguments& arguments);

// Helpers that filters, tests and methods share.
[[noreturn]] void fail_undefined(const Value& value);  // using an undefined value
Int int_argument(const Value* value, Int fallback, std::string_view what);
const Text& text_argument(const Value& value, std::string_view what);
std::optional<Int> parse_int(std::string_view text, int base);  // int("..."): nothing if malformed
std::optional<double> parse_float(std::string_view text);

}  // namespace plimsoll::jinja
