// The tests of `is`.
#include <algorithm>
#include <array>

#include "engine/chat/builtins.h"
#include "engine/chat/print.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

template <bool (*predicate)(const Value&)>
Value test(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("the test", arguments, {});
  return Value(predicate(value));
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_boolean(const Value& v) { return v.is<bool>(); }
bool is_true(const Value& v) { return v.is<bool>() && v.as<bool>(); }
bool is_false(const Value& v) { return v.is<bool>() && !v.as<bool>(); }
bool is_integer(const Value& v) { return v.is<Int>(); }
bool is_float(const Value& v) { return v.is<double>(); }
bool is_number(const Value& v) { return as_number(v).has_value(); }
bool is_string(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.dict() != nullptr; }
bool is_sequence(const Value& v) { return try_length(v).has_value() && !v.is<DictView>(); }
bool is_callable(const Value& v) {
  return v.is<const Macro*>() || v.is<Function>() || v.is<std::shared_ptr<const Method>>() ||
         v.is_undefined() || v.is<std::shared_ptr<Loop>>();
}
bool is_escaped(const Value& v) { return v.is_string() && v.text().markup; }

template <bool (*predicate)(Meter&, const Value&, const Value&)>
Value compare(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("the test", arguments, {""}, 1);
  return Value(predicate(meter, value, *args[0]));
}

bool not_equal(Meter& meter, const Value& a, const Value& b) { return !equal(meter, a, b); }
bool greater(Meter& meter, const Value& a, const Value& b) { return less(meter, b, a); }
bool less_equal(Meter& meter, const Value& a, const Value& b) {
  return less(meter, a, b) || equal(meter, a, b);
}
bool greater_equal(Meter& meter, const Value& a, const Value& b) { return less_equal(meter, b, a); }
bool is_in(Meter& meter, const Value& value, const Value& container) {
  return contains(meter, container, value);
}
// Python compares addresses: meaningful for None, True and False.
bool same_as(Meter& meter, const Value& a, const Value& b) {
  return type_name(a) == type_name(b) && equal(meter, a, b);
}

bool divisible(Meter& meter, const Value& value, const Value& by) {
  return equal(meter, modulo(meter, value, by), Value(Int{0}));
}

template <int rest>
Value has_rest(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("the test", arguments, {});
  return Value(equal(meter, modulo(meter, value, Value(Int{2})), Value(Int{rest})));
}

template <bool upper_case>
Value is_case(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("the test", arguments, {});
  return call_string_method(meter, to_text(meter, value), upper_case ? "isupper" : "islower", {});
}

Value is_filter(Meter&, const Value& value, const Arguments&) {
  return Value(value.is_string() && find_filter(value.text().bytes) != nullptr);
}
Value is_test(Meter&, const Value& value, const Arguments&) {
  return Value(value.is_string() && find_test(value.text().bytes) != nullptr);
}

constexpr std::pair<std::string_view, Builtin> table[] = {
    {"!=", compare<not_equal>},
    {"<", compare<less>},
    {"<=", compare<less_equal>},
    {"==", compare<equal>},
    {">", compare<greater>},
    {">=", compare<greater_equal>},
    {"boolean", test<is_boolean>},
    {"callable", test<is_callable>},
    {"defined", test<is_defined>},
    {"divisibleby", compare<divisible>},
    {"eq", compare<equal>},
    {"equalto", compare<equal>},
    {"escaped", test<is_escaped>},
    {"even", has_rest<0>},
    {"false", test<is_false>},
    {"filter", is_filter},
    {"float", test<is_float>},
    {"ge", compare<greater_equal>},
    {"greaterthan", compare<greater>},
    {"gt", compare<greater>},
    {"in", compare<is_in>},
    {"integer", test<is_integer>},
    {"iterable", test<is_iterable>},
    {"le", compare<less_equal>},
    {"lessthan", compare<less>},
    {"lower", is_case<false>},
    {"lt", compare<less>},
    {"mapping", test<is_mapping>},
    {"ne", compare<not_equal>},
    {"none", test<is_none>},
    {"number", test<is_number>},
    {"odd", has_rest<1>},
    {"sameas", compare<same_as>},
    {"sequence", test<is_sequence>},
    {"string", test<is_string>},
    {"test", is_test},
    {"true", test<is_true>},
    {"undefined", test<is_undefined>},
    {"upper", is_case<true>},
};

}  // namespace

Builtin find_test(std::string_view name) {
  const auto found = std::find_if(std::begin(table), std::end(table),
                                  [&](const auto& t) { return t.first == name; });
  return found != std::end(table) ? found->second : nullptr;
}

}  // namespace plimsoll::jinja
