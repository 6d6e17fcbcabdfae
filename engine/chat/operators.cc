// Python's operators on values.
#include <cmath>
#include <limits>

#include "engine/chat/builtins.h"
#include "engine/chat/print.h"
#include "engine/chat/text_operations.h"

namespace plimsoll::jinja {
namespace {

constexpr Int max_int = static_cast<Int>(~static_cast<unsigned __int128>(0) >> 1);

[[noreturn]] void fail_operands(std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  fail_render("unsupported operand type(s) for " + std::string(op) + ": '" +
              std::string(type_name(a)) + "' and '" + std::string(type_name(b)) + "'");
}

[[noreturn]] void fail_overflow() { fail_unsupported("an integer of more than 128 bits"); }

struct Ints {
  Int a, b;
};
struct Reals {
  double a, b;
};

std::optional<Ints> ints(const Value& a, const Value& b) {
  const auto x = as_int(a);
  const auto y = as_int(b);
  if (!x || !y) return std::nullopt;
  return Ints{*x, *y};
}

Reals reals(std::string_view op, const Value& a, const Value& b) {
  const auto x = as_number(a);
  const auto y = as_number(b);
  if (!x || !y) fail_operands(op, a, b);
  return {*x, *y};
}

// Markup escapes the plain text that it is added to.
void append_escaped(TextBuilder& out, const Text& text, bool escape) {
  if (!escape) return out.append(text);
  std::size_t plain = 0;
  for (std::size_t i = 0; i < text.bytes.size(); ++i) {
    std::string_view name;
    switch (text.bytes[i]) {
      case '&': name = "&amp;"; break;
      case '<': name = "&lt;"; break;
      case '>': name = "&gt;"; break;
      case '"': name = "&#34;"; break;
      case '\'': name = "&#39;"; break;
      default: continue;
    }
    out.append(text, plain, i);
    out.append(name, text.from_template_at(i));
    plain = i + 1;
  }
  out.append(text, plain, text.bytes.size());
}

Value add_texts(Meter& meter, const Text& a, const Text& b) {
  TextBuilder out(meter);
  append_escaped(out, a, b.markup && !a.markup);
  append_escaped(out, b, a.markup && !b.markup);
  String text = out.finish();
  if (a.markup || b.markup) std::const_pointer_cast<Text>(text)->markup = true;
  return Value(std::move(text));
}

Value repeat(Meter& meter, const Value& value, Int count) {
  if (count < 0) count = 0;
  if (value.is_string()) {
    const Text& text = value.text();
    TextBuilder out(meter);
    if (text.bytes.empty()) count = 0;
    for (Int i = 0; i < count; ++i) {
      meter.step();
      out.append(text);
    }
    return Value(out.finish());
  }
  const Sequence& list = *value.sequence();
  ListBuilder out(meter);
  if (list.items.empty()) count = 0;
  for (Int i = 0; i < count; ++i) {
    meter.step();
    for (const Value& item : list.items) out.push(item);
  }
  return list.is_tuple ? out.tuple() : out.list();
}

double floor_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0 && (b < 0) != (rest < 0)) rest += b;
  if (rest == 0) rest = std::copysign(0.0, b);
  return rest;
}

}  // namespace

void fail_undefined(const Value& value) { fail_render(*value.as<Undefined>().why); }

Value add(Meter& meter, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return add_texts(meter, a.text(), b.text());
  if (const auto i = ints(a, b)) {
    Int sum;
    if (__builtin_add_overflow(i->a, i->b, &sum)) fail_overflow();
    return Value(sum);
  }
  const Sequence* x = a.sequence();
  const Sequence* y = b.sequence();
  if (x != nullptr && y != nullptr && x->is_tuple == y->is_tuple) {
    ListBuilder out(meter);
    out.reserve(x->items.size() + y->items.size());
    for (const Value& item : x->items) out.push(item);
    for (const Value& item : y->items) out.push(item);
    return x->is_tuple ? out.tuple() : out.list();
  }
  const Reals r = reals("+", a, b);
  return Value(r.a + r.b);
}

Value subtract(const Value& a, const Value& b) {
  if (const auto i = ints(a, b)) {
    Int result;
    if (__builtin_sub_overflow(i->a, i->b, &result)) fail_overflow();
    return Value(result);
  }
  const Reals r = reals("-", a, b);
  return Value(r.a - r.b);
}

Value multiply(Meter& meter, const Value& a, const Value& b) {
  if (const auto i = ints(a, b)) {
    Int result;
    if (__builtin_mul_overflow(i->a, i->b, &result)) fail_overflow();
    return Value(result);
  }
  const auto repeatable = [](const Value& v) { return v.is_string() || v.sequence() != nullptr; };
  if (const auto count = as_int(b); count && repeatable(a)) return repeat(meter, a, *count);
  if (const auto count = as_int(a); count && repeatable(b)) return repeat(meter, b, *count);
  const Reals r = reals("*", a, b);
  return Value(r.a * r.b);
}

Value divide(const Value& a, const Value& b) {
  const Reals r = reals("/", a, b);
  if (r.b == 0) fail_render("division by zero");
  return Value(r.a / r.b);
}

Value floor_divide(const Value& a, const Value& b) {
  const Reals r = reals("//", a, b);
  if (r.b == 0) fail_render("division by zero");
  if (const auto i = ints(a, b)) {
    if (i->b == -1) return negate(Value(i->a));
    const Int quotient = i->a / i->b;
    return Value(quotient - ((i->a % i->b != 0 && (i->a < 0) != (i->b < 0)) ? 1 : 0));
  }
  const double rest = floor_modulo(r.a, r.b);
  return Value(std::round((r.a - rest) / r.b));
}

Value modulo(Meter& meter, const Value& a, const Value& b) {
  if (a.is_string()) return Value(format_percent(meter, a.text(), b));
  const Reals r = reals("%", a, b);
  if (r.b == 0) fail_render("division by zero");
  if (const auto i = ints(a, b)) {
    if (i->b == -1) return Value(Int{0});
    const Int rest = i->a % i->b;
    return Value(rest != 0 && (rest < 0) != (i->b < 0) ? rest + i->b : rest);
  }
  return Value(floor_modulo(r.a, r.b));
}

Value power(const Value& a, const Value& b) {
  if (const auto i = ints(a, b); i && i->b >= 0) {
    Int result = 1;
    Int base = i->a;
    for (Int exponent = i->b; exponent > 0; exponent >>= 1) {
      if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
      if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return Value(result);
  }
  const Reals r = reals("** or pow()", a, b);
  if (r.a == 0 && r.b < 0) fail_render("0.0 cannot be raised to a negative power");
  if (r.a < 0 && std::floor(r.b) != r.b) fail_unsupported("a complex number");
  const double result = std::pow(r.a, r.b);
  if (std::isinf(result) && !std::isinf(r.a) && !std::isinf(r.b)) {
    fail_render("the result of ** is too large");
  }
  return Value(result);
}

Value negate(const Value& a) {
  if (const auto i = as_int(a)) {
    if (*i == -max_int - 1) fail_overflow();
    return Value(-*i);
  }
  if (const auto* d = a.get_if<double>()) return Value(-*d);
  if (a.is_undefined()) fail_undefined(a);
  fail_render("bad operand type for unary -: '" + std::string(type_name(a)) + "'");
}

bool contains(Meter& meter, const Value& container, const Value& item) {
  meter.step();
  if (container.is_string()) {
    if (!item.is_string()) {
      fail_render("'in <string>' requires string as left operand, not " +
                  std::string(type_name(item)));
    }
    const std::string& text = container.text().bytes;
    const std::string& part = item.text().bytes;
    charge_search(meter, text.size(), part.size());
    return text.find(part) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) return dict->find(meter, item) != nullptr;
  if (const auto* view = container.get_if<DictView>();
      view != nullptr && view->part == DictView::Part::keys) {
    return view->dict->find(meter, item) != nullptr;
  }
  if (!is_iterable(container)) {
    fail_render("argument of type '" + std::string(type_name(container)) + "' is not iterable");
  }
  const SequencePtr items = iterate(meter, container);
  for (const Value& candidate : items->items) {
    if (equal(meter, candidate, item)) return true;
  }
  return false;
}

}  // namespace plimsoll::jinja
