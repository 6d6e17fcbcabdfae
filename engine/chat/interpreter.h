// Renders a parsed template: one object for one render.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "engine/chat/ast.h"
#include "engine/chat/macro.h"
#include "engine/chat/meter.h"

namespace plimsoll::jinja {

class Interpreter {
 public:
  Interpreter(const ChatTemplateLimits& limits, std::time_t now)
      : meter_(limits), now_(now), frames_(std::make_shared<Scope>()) {}
  ~Interpreter();

  // Throws TemplateError. `context` is an object; offset() then says where in the source.
  String render(const Block& program, const nlohmann::ordered_json& context);
  std::size_t offset() const { return offset_; }

 private:
  enum class Flow { next, break_, continue_ };
  using ScopePtr = std::shared_ptr<Scope>;

  // Statements.
  Flow run(const Block& block, const ScopePtr& scope);
  Flow run(const Statement& statement, const ScopePtr& scope);
  Flow run_conditional(const Statement& statement, const ScopePtr& scope);
  Flow run_loop(const Statement& statement, const ScopePtr& scope);
  Flow run_set_block(const Statement& statement, const ScopePtr& scope);
  Flow run_with(const Statement& statement, const ScopePtr& scope);
  Flow run_filter(const Statement& statement, const ScopePtr& scope);
  void run_call(const Statement& statement, const ScopePtr& scope);
  void assign(const Target& target, const Value& value, const ScopePtr& scope);
  void check_namespaces(const Target& target, const ScopePtr& scope);
  const Macro* define(const Callable& callable, const ScopePtr& scope);
  ScopePtr inner(const ScopePtr& parent);

  // Expressions.
  Value evaluate(const Expr& expr, const ScopePtr& scope);
  Value evaluate_or(const ExprPtr& expr, const ScopePtr& scope, Value fallback);
  Value evaluate_list(const Expr& expr, const ScopePtr& scope);
  Value evaluate_dict(const Expr& expr, const ScopePtr& scope);
  Value evaluate_binary(const Expr& expr, const ScopePtr& scope);
  Value evaluate_compare(const Expr& expr, const ScopePtr& scope);
  Value evaluate_builtin(const Expr& expr, const ScopePtr& scope, const Value* block_text);
  Value evaluate_call(const Expr& expr, const ScopePtr& scope, const Macro* caller);
  bool compare(Operator op, const Value& a, const Value& b);
  Value look_up(std::string_view name, const ScopePtr& scope);
  Arguments evaluate_arguments(const CallArguments& arguments, const ScopePtr& scope);
  // Filters around the text of a block.
  Value filter_text(const Expr& filters, const Value& text, const ScopePtr& scope);

  // Calls.
  Value call(const Value& callee, const Arguments& arguments);
  Value call_macro(const Macro& macro, const Arguments& arguments);
  Value call_function(Function function, const Arguments& arguments);
  Value make_range(const Arguments& arguments);
  Value make_namespace(const Arguments& arguments);
  Value make_dict(const Arguments& arguments);
  Value format_now(const Arguments& arguments);

  void set_attribute(Namespace& ns, const std::string& name, Value value);
  Value convert(const nlohmann::ordered_json& json, bool from_template, std::size_t depth);

  Meter meter_;
  const std::time_t now_;
  std::size_t depth_ = 0;
  std::size_t offset_ = 0;
  TextBuilder* out_ = nullptr;
  DictPtr context_;
  // What may be part of a cycle belongs to the render.
  std::vector<std::unique_ptr<Namespace>> namespaces_;
  std::vector<std::unique_ptr<const Macro>> macros_;
  ScopePtr frames_;  // the template's own names
};

}  // namespace plimsoll::jinja
