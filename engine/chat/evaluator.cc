// Expressions, and calls of macros, methods and the template's global functions.
#include <algorithm>
#include <ctime>
#include <utility>

#include "engine/chat/interpreter.h"
#include "engine/chat/print.h"

namespace plimsoll::jinja {
namespace {

constexpr std::size_t max_range = 100'000;  // jinja2.sandbox.MAX_RANGE

std::optional<Function> find_function(std::string_view name) {
  if (name == "range") return Function::range;
  if (name == "dict") return Function::dict;
  if (name == "namespace") return Function::namespace_;
  if (name == "raise_exception") return Function::raise_exception;
  if (name == "strftime_now") return Function::strftime_now;
  return std::nullopt;
}

}  // namespace

Value Interpreter::look_up(std::string_view name, const ScopePtr& scope) {
  for (Scope* at = scope.get(); at != nullptr; at = at->parent.get()) {
    meter_.step(at->names.size() / 16);
    if (const Value* found = at->find(name)) return *found;
  }
  if (const Value* found = context_->find(name)) return *found;
  if (const auto function = find_function(name)) return Value(*function);
  return undefined("'" + std::string(name) + "' is undefined");
}

Value Interpreter::evaluate_or(const ExprPtr& expr, const ScopePtr& scope, Value fallback) {
  return expr != nullptr ? evaluate(*expr, scope) : std::move(fallback);
}

Value Interpreter::evaluate(const Expr& expr, const ScopePtr& scope) {
  using Kind = Expr::Kind;
  const Nesting nesting(meter_, depth_);
  meter_.step();
  offset_ = expr.offset;
  const auto operand = [&](std::size_t i) { return evaluate(*expr.operands[i], scope); };
  switch (expr.kind) {
    case Kind::constant: return expr.value;
    case Kind::name: return look_up(expr.text, scope);
    case Kind::list:
    case Kind::tuple: return evaluate_list(expr, scope);
    case Kind::dict: return evaluate_dict(expr, scope);
    case Kind::attribute: {
      const Value object = operand(0);
      offset_ = expr.offset;
      meter_.work(expr.text.size());
      return get_attribute(meter_, object, expr.text);
    }
    case Kind::item: {
      const Value object = operand(0);
      const Value key = operand(1);
      offset_ = expr.offset;
      return get_item(meter_, object, key);
    }
    case Kind::slice: {
      const Value object = operand(0);
      const Value start = evaluate_or(expr.operands[1], scope, Value());
      const Value stop = evaluate_or(expr.operands[2], scope, Value());
      const Value step = evaluate_or(expr.operands[3], scope, Value());
      offset_ = expr.offset;
      return get_slice(meter_, object, start, stop, step);
    }
    case Kind::call: return evaluate_call(expr, scope, nullptr);
    case Kind::filter:
    case Kind::test: return evaluate_builtin(expr, scope, nullptr);
    case Kind::negative: return negate(operand(0));
    case Kind::positive: {
      const Value value = operand(0);
      if (const auto integer = as_int(value)) return Value(*integer);
      if (value.is<double>()) return value;
      if (value.is_undefined()) fail_undefined(value);
      fail_render("bad operand type for unary +: '" + std::string(type_name(value)) + "'");
    }
    case Kind::logical_not: return Value(!truthy(operand(0)));
    case Kind::logical_and: {
      Value left = operand(0);
      return truthy(left) ? operand(1) : left;
    }
    case Kind::logical_or: {
      Value left = operand(0);
      return truthy(left) ? left : operand(1);
    }
    case Kind::binary: return evaluate_binary(expr, scope);
    case Kind::compare: return evaluate_compare(expr, scope);
    case Kind::concat: {
      TextBuilder out(meter_);
      for (const ExprPtr& part : expr.operands) append_text(out, meter_, evaluate(*part, scope));
      return Value(out.finish());
    }
    case Kind::conditional:
      if (truthy(operand(1))) return operand(0);
      if (expr.operands[2] != nullptr) return operand(2);
      return undefined(
          "the inline if-expression evaluated to false and no else section was defined.");
  }
  return Value();
}

Value Interpreter::evaluate_list(const Expr& expr, const ScopePtr& scope) {
  ListBuilder out(meter_);
  out.reserve(expr.operands.size());
  for (const ExprPtr& item : expr.operands) out.push(evaluate(*item, scope));
  return expr.kind == Expr::Kind::tuple ? out.tuple() : out.list();
}

Value Interpreter::evaluate_dict(const Expr& expr, const ScopePtr& scope) {
  DictBuilder out(meter_);
  for (std::size_t i = 0; i < expr.operands.size(); i += 2) {
    Value key = evaluate(*expr.operands[i], scope);
    out.set(std::move(key), evaluate(*expr.operands[i + 1], scope));
  }
  return out.finish();
}

Value Interpreter::evaluate_binary(const Expr& expr, const ScopePtr& scope) {
  const Value a = evaluate(*expr.operands[0], scope);
  const Value b = evaluate(*expr.operands[1], scope);
  offset_ = expr.offset;
  switch (expr.op) {
    case Operator::add: return add(meter_, a, b);
    case Operator::subtract: return subtract(a, b);
    case Operator::multiply: return multiply(meter_, a, b);
    case Operator::divide: return divide(a, b);
    case Operator::floor_divide: return floor_divide(a, b);
    case Operator::modulo: return modulo(meter_, a, b);
    default: return power(a, b);
  }
}

bool Interpreter::compare(Operator op, const Value& a, const Value& b) {
  switch (op) {
    case Operator::equal: return equal(meter_, a, b);
    case Operator::not_equal: return !equal(meter_, a, b);
    case Operator::less: return less(meter_, a, b);
    case Operator::less_equal: return less(meter_, a, b) || equal(meter_, a, b);
    case Operator::greater: return less(meter_, b, a);
    case Operator::greater_equal: return less(meter_, b, a) || equal(meter_, a, b);
    case Operator::in: return contains(meter_, b, a);
    default: return !contains(meter_, b, a);
  }
}

Value Interpreter::evaluate_compare(const Expr& expr, const ScopePtr& scope) {
  Value left = evaluate(*expr.operands[0], scope);
  for (std::size_t i = 0; i < expr.comparisons.size(); ++i) {
    Value right = evaluate(*expr.operands[i + 1], scope);
    offset_ = expr.offset;
    if (!compare(expr.comparisons[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments, const ScopePtr& scope) {
  Arguments result;
  result.positional.reserve(arguments.positional.size());
  for (const ExprPtr& expr : arguments.positional) {
    result.positional.push_back(evaluate(*expr, scope));
  }
  for (const auto& [name, expr] : arguments.named) {
    result.named.emplace_back(name, evaluate(*expr, scope));
  }
  return result;
}

Value Interpreter::evaluate_builtin(const Expr& expr, const ScopePtr& scope,
                                    const Value* block_text) {
  const Value input = block_text != nullptr ? *block_text : evaluate(*expr.operands[0], scope);
  const Arguments arguments = evaluate_arguments(expr.arguments, scope);
  offset_ = expr.offset;
  return expr.builtin(meter_, input, arguments);
}

Value Interpreter::filter_text(const Expr& filters, const Value& text, const ScopePtr& scope) {
  const Nesting nesting(meter_, depth_);
  if (filters.operands[0] == nullptr) return evaluate_builtin(filters, scope, &text);
  const Value inner = filter_text(*filters.operands[0], text, scope);
  return evaluate_builtin(filters, scope, &inner);
}

Value Interpreter::evaluate_call(const Expr& expr, const ScopePtr& scope, const Macro* caller) {
  const Value callee = evaluate(*expr.operands[0], scope);
  Arguments arguments = evaluate_arguments(expr.arguments, scope);
  if (caller != nullptr) arguments.named.emplace_back("caller", Value(caller));
  offset_ = expr.offset;
  return call(callee, arguments);
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  if (callee.is_undefined()) fail_undefined(callee);
  if (const auto* macro = callee.get_if<const Macro*>()) return call_macro(**macro, arguments);
  if (const auto* method = callee.get_if<std::shared_ptr<const Method>>()) {
    return call_method(meter_, **method, arguments);
  }
  if (const auto* function = callee.get_if<Function>()) return call_function(*function, arguments);
  if (callee.is<std::shared_ptr<Loop>>()) {
    fail_render("The loop must have the 'recursive' marker to be called recursively.");
  }
  fail_render("'" + std::string(type_name(callee)) + "' object is not callable");
}

Value Interpreter::call_function(Function function, const Arguments& arguments) {
  switch (function) {
    case Function::range: return make_range(arguments);
    case Function::dict: return make_dict(arguments);
    case Function::namespace_: return make_namespace(arguments);
    case Function::strftime_now: return format_now(arguments);
    case Function::raise_exception: break;
  }
  const Bound args("raise_exception", arguments, {"message"}, 1);
  throw TemplateError{Error(ErrorCode::invalid_argument, to_text(meter_, *args[0])->bytes)
                          .with_reason("template_raised")};
}

Value Interpreter::make_range(const Arguments& arguments) {
  const Bound args("range", arguments, {"", "", ""}, 1);
  Range range{0, int_argument(args[0], 0, "range"), 1, 0};
  if (args[1] != nullptr) {
    range.start = range.stop;
    range.stop = int_argument(args[1], 0, "range");
    range.step = int_argument(args[2], 1, "range");
  }
  if (range.step == 0) fail_render("range() arg 3 must not be zero");
  const Int limit = Int{1} << 100;  // keeps the arithmetic below from overflowing
  for (const Int bound : {range.start, range.stop, range.step}) {
    if (bound > limit || bound < -limit) fail_unsupported("a range of integers this large");
  }
  Int size = 0;
  if (range.step > 0 && range.start < range.stop) {
    size = (range.stop - range.start - 1) / range.step + 1;
  } else if (range.step < 0 && range.stop < range.start) {
    size = (range.start - range.stop - 1) / -range.step + 1;
  }
  if (size > static_cast<Int>(max_range)) {
    fail_render("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  }
  range.size = static_cast<std::size_t>(size);
  return Value(range);
}

// dict(mapping or pairs, name=value, ...)
Value Interpreter::make_dict(const Arguments& arguments) {
  DictBuilder out(meter_);
  if (arguments.positional.size() > 1) fail_render("dict expected at most 1 argument");
  for (const Value& source : arguments.positional) {
    if (const Dict* dict = source.dict()) {
      for (const auto& [key, value] : dict->entries) out.set(key, value);
      continue;
    }
    const SequencePtr pairs = iterate(meter_, source);
    for (const Value& item : pairs->items) {
      const SequencePtr pair = iterate(meter_, item);
      if (pair->items.size() != 2) fail_render("dict: each element must be a pair");
      out.set(pair->items[0], pair->items[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) {
    out.set(Value(make_text(meter_, name, true)), value);
  }
  return out.finish();
}

Value Interpreter::make_namespace(const Arguments& arguments) {
  const Value initial = make_dict(arguments);
  auto ns = std::make_unique<Namespace>();
  ns->charge = Charge(meter_);
  ns->charge.add(sizeof(Namespace) + 2 * sizeof(void*));
  for (const auto& [key, value] : initial.dict()->entries) {
    set_attribute(*ns, text_argument(key, "a namespace's attribute").bytes, value);
  }
  namespaces_.push_back(std::move(ns));
  return Value(namespaces_.back().get());
}

Value Interpreter::format_now(const Arguments& arguments) {
  const Bound args("strftime_now", arguments, {"format"}, 1);
  std::string format = text_argument(*args[0], "format").bytes;
  if (format.size() > 1000) fail_limit("strftime_now: the format is too long");
  if (format.empty()) return Value(make_literal(""));
  std::tm local{};
  localtime_r(&now_, &local);
  format += '\n';  // so that what strftime makes is never empty, which it tells apart from an error
  std::string text(16 * format.size(), '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &local));
  if (text.empty()) fail_limit("strftime_now: the text is too long");
  text.pop_back();
  return Value(make_text(meter_, text, false));
}

}  // namespace plimsoll::jinja
