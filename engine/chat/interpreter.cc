// Statements, and the values a render starts from. Expressions are in evaluator.cc.
#include "engine/chat/interpreter.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/chat/print.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

// Sends output to another builder until destroyed.
class Capture {
 public:
  Capture(TextBuilder*& out, TextBuilder& to) : out_(out), before_(std::exchange(out, &to)) {}
  ~Capture() { out_ = before_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

 private:
  TextBuilder*& out_;
  TextBuilder* before_;
};

}  // namespace

Value* Scope::find(std::string_view name) {
  for (auto entry = names.rbegin(); entry != names.rend(); ++entry) {
    if (entry->first == name) return &entry->second;
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  if (Value* old = find(name)) {
    *old = std::move(value);
    return;
  }
  if (names.size() == names.capacity()) {
    const std::size_t next = std::max<std::size_t>(4, names.capacity() * 2);
    charge.add((next - names.capacity()) * sizeof(names[0]));
    names.reserve(next);
  }
  names.emplace_back(name, std::move(value));
}

// Namespaces, macros and scopes refer to each other: empty them all before any is freed.
Interpreter::~Interpreter() {
  for (const auto& ns : namespaces_) ns->attributes.clear();
}

String Interpreter::render(const Block& program, const nlohmann::ordered_json& context) {
  DictBuilder variables(meter_);
  for (const auto& [key, value] : context.items()) {
    const bool from_template = key == "bos_token" || key == "eos_token";
    Value name = convert(key, false, 0);
    variables.set(std::move(name), convert(value, from_template, 0));
  }
  context_ = variables.finish().as<DictPtr>();
  frames_->charge = Charge(meter_);
  TextBuilder out(meter_);
  out_ = &out;
  run(program, frames_);
  return out.finish();
}

Value Interpreter::convert(const nlohmann::ordered_json& json, bool from_template,
                           std::size_t depth) {
  using Type = nlohmann::ordered_json::value_t;
  meter_.check_depth(depth);
  switch (json.type()) {
    case Type::null: return Value();
    case Type::boolean: return Value(json.get<bool>());
    case Type::number_integer: return Value(static_cast<Int>(json.get<std::int64_t>()));
    case Type::number_unsigned: return Value(static_cast<Int>(json.get<std::uint64_t>()));
    case Type::number_float: return Value(json.get<double>());
    case Type::string: {
      const std::string& text = json.get_ref<const std::string&>();
      if (!is_valid_utf8(text)) fail_render("a string of the context is not valid UTF-8");
      return Value(make_text(meter_, text, from_template));
    }
    case Type::array: {
      ListBuilder list(meter_);
      list.reserve(json.size());
      for (const auto& item : json) list.push(convert(item, false, depth + 1));
      return list.list();
    }
    case Type::object: {
      DictBuilder dict(meter_);
      for (const auto& [key, value] : json.items()) {
        Value name = convert(key, false, depth + 1);
        dict.set(std::move(name), convert(value, false, depth + 1));
      }
      return dict.finish();
    }
    default: fail_render("the context holds a value that is not JSON");
  }
}

Interpreter::ScopePtr Interpreter::inner(const ScopePtr& parent) {
  auto scope = std::make_shared<Scope>();
  scope->charge = Charge(meter_);
  scope->charge.add(sizeof(Scope));
  scope->parent = parent;
  return scope;
}

Interpreter::Flow Interpreter::run(const Block& block, const ScopePtr& scope) {
  for (const auto& statement : block) {
    if (const Flow flow = run(*statement, scope); flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run(const Statement& statement, const ScopePtr& scope) {
  using Kind = Statement::Kind;
  const Nesting nesting(meter_, depth_);
  meter_.step();
  offset_ = statement.offset;
  switch (statement.kind) {
    case Kind::text: out_->append(*statement.literal); return Flow::next;
    case Kind::output:
      append_text(*out_, meter_, evaluate(*statement.expression, scope));
      return Flow::next;
    case Kind::conditional: return run_conditional(statement, scope);
    case Kind::loop: return run_loop(statement, scope);
    case Kind::set:
      check_namespaces(statement.target, scope);
      assign(statement.target, evaluate(*statement.expression, scope), scope);
      return Flow::next;
    case Kind::set_block: return run_set_block(statement, scope);
    case Kind::with: return run_with(statement, scope);
    case Kind::macro:
      scope->set(statement.callable.name, Value(define(statement.callable, scope)));
      return Flow::next;
    case Kind::call: run_call(statement, scope); return Flow::next;
    case Kind::filter: return run_filter(statement, scope);
    case Kind::generation: return run(statement.body, inner(scope));
    case Kind::break_: return Flow::break_;
    case Kind::continue_: return Flow::continue_;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run_conditional(const Statement& statement, const ScopePtr& scope) {
  for (const Statement::Branch& branch : statement.branches) {
    if (branch.test == nullptr || truthy(evaluate(*branch.test, scope))) {
      return run(branch.body, scope);
    }
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement, const ScopePtr& scope) {
  const Value iterable = evaluate(*statement.expression, scope);
  auto loop = std::make_shared<Loop>();
  if (const auto* iterator = iterable.get_if<std::shared_ptr<Iterator>>()) {
    loop->source = *iterator;
  } else {
    loop->source = std::make_shared<Iterator>();
    loop->source->items = iterate(meter_, iterable);
    if (statement.test == nullptr) loop->length = loop->source->items->items.size();
  }
  if (statement.test != nullptr) {
    loop->test = [&](const Value& item) {
      meter_.step();
      const ScopePtr test_scope = inner(scope);
      assign(statement.target, item, test_scope);
      return truthy(evaluate(*statement.test, test_scope));
    };
  }
  // The test looks into this frame: a loop object that lives on may not use it.
  struct End {
    Loop& loop;
    ~End() { loop.test = nullptr; }
  } end{*loop};

  bool started = false;
  bool completed = false;  // an iteration reached its end: Jinja2's condition against `else`
  ScopePtr body;
  while (auto item = loop->after ? std::exchange(loop->after, std::nullopt) : loop->pull()) {
    meter_.step();
    if (started) {
      ++loop->index0;
      loop->before = std::move(loop->current);
    }
    started = true;
    loop->current = *item;
    if (body != nullptr && body.use_count() == 1) {
      body->names.clear();  // nothing kept it: use it again
    } else {
      body = inner(scope);
    }
    body->set("loop", Value(loop));
    assign(statement.target, *item, body);
    const Flow flow = run(statement.body, body);
    if (flow == Flow::break_) break;
    completed = completed || flow == Flow::next;
  }
  if (!completed) return run(statement.otherwise, inner(scope));
  return Flow::next;
}

Interpreter::Flow Interpreter::run_set_block(const Statement& statement, const ScopePtr& scope) {
  check_namespaces(statement.target, scope);
  TextBuilder text(meter_);
  const ScopePtr body = inner(scope);
  {
    const Capture capture(out_, text);
    if (const Flow flow = run(statement.body, body); flow != Flow::next) return flow;
  }
  Value value(text.finish());
  if (statement.expression != nullptr) value = filter_text(*statement.expression, value, body);
  assign(statement.target, value, scope);
  return Flow::next;
}

Interpreter::Flow Interpreter::run_with(const Statement& statement, const ScopePtr& scope) {
  const ScopePtr body = inner(scope);
  for (const auto& [target, expression] : statement.assignments) {
    assign(target, evaluate(*expression, scope), body);
  }
  return run(statement.body, body);
}

Interpreter::Flow Interpreter::run_filter(const Statement& statement, const ScopePtr& scope) {
  TextBuilder text(meter_);
  const ScopePtr body = inner(scope);
  {
    const Capture capture(out_, text);
    if (const Flow flow = run(statement.body, body); flow != Flow::next) return flow;
  }
  const Value value(text.finish());
  append_text(*out_, meter_, filter_text(*statement.expression, value, body));
  return Flow::next;
}

void Interpreter::run_call(const Statement& statement, const ScopePtr& scope) {
  const Macro* caller = define(statement.callable, scope);
  append_text(*out_, meter_, evaluate_call(*statement.expression, scope, caller));
}

const Macro* Interpreter::define(const Callable& callable, const ScopePtr& scope) {
  Charge charge(meter_);
  charge.add(sizeof(Macro) + callable.name.size() + 2 * sizeof(void*));
  macros_.push_back(
      std::make_unique<const Macro>(Macro{callable.name, &callable, scope, std::move(charge)}));
  return macros_.back().get();
}

void Interpreter::check_namespaces(const Target& target, const ScopePtr& scope) {
  for (const Target& part : target.parts) check_namespaces(part, scope);
  if (!target.attribute.empty() && !look_up(target.name, scope).is<Namespace*>()) {
    fail_render("cannot assign attribute on non-namespace object");
  }
}

void Interpreter::assign(const Target& target, const Value& value, const ScopePtr& scope) {
  if (!target.attribute.empty()) {
    return set_attribute(*look_up(target.name, scope).as<Namespace*>(), target.attribute, value);
  }
  if (target.parts.empty()) return scope->set(target.name, value);
  const SequencePtr items = iterate(meter_, value);
  if (items->items.size() != target.parts.size()) {
    fail_render("cannot unpack " + std::to_string(items->items.size()) + " values into " +
                std::to_string(target.parts.size()));
  }
  for (std::size_t i = 0; i < target.parts.size(); ++i) {
    assign(target.parts[i], items->items[i], scope);
  }
}

void Interpreter::set_attribute(Namespace& ns, const std::string& name, Value value) {
  if (name.starts_with('_')) {
    fail_render("a namespace cannot have the underscore-prefixed attribute '" + name + "'");
  }
  for (auto& [key, old] : ns.attributes) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  ns.charge.add(2 * sizeof(ns.attributes[0]) + name.size());
  ns.attributes.emplace_back(name, std::move(value));
}

Value Interpreter::call_macro(const Macro& macro, const Arguments& arguments) {
  const Callable& callable = *macro.callable;
  const auto& parameters = callable.parameters;
  const Nesting nesting(meter_, depth_);
  const ScopePtr scope = inner(macro.scope);
  if (arguments.positional.size() > parameters.size()) {
    fail_render("macro '" + macro.name + "' takes not more than " +
                std::to_string(parameters.size()) + " argument(s)");
  }
  std::vector<const Value*> given(parameters.size(), nullptr);
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
    given[i] = &arguments.positional[i];
  }
  Value caller = undefined("No caller defined");
  for (const auto& [name, value] : arguments.named) {
    std::size_t i = 0;
    while (i < parameters.size() && (parameters[i].name != name || given[i] != nullptr)) ++i;
    if (i < parameters.size()) {
      given[i] = &value;
    } else if (name == "caller" && callable.uses_caller) {
      caller = value;
    } else {
      fail_render("macro '" + macro.name + "' takes no keyword argument '" + name + "'");
    }
  }
  if (callable.uses_caller) scope->set("caller", std::move(caller));
  TextBuilder text(meter_);
  const Capture capture(out_, text);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    scope->set(parameters[i].name,
               given[i] != nullptr ? *given[i]
               : parameters[i].fallback != nullptr
                   ? evaluate(*parameters[i].fallback, scope)
                   : undefined("parameter '" + parameters[i].name + "' was not provided"));
  }
  run(callable.body, scope);
  return Value(text.finish());
}

}  // namespace plimsoll::jinja
