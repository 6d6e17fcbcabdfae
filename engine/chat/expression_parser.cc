#include "engine/chat/expression_parser.h"

#include <array>
#include <utility>

namespace plimsoll::jinja {
namespace {

using Kind = Expr::Kind;

std::unique_ptr<Expr> make(Kind kind, std::size_t offset) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->offset = offset;
  return expr;
}

template <class... Operands>
std::unique_ptr<Expr> make(Kind kind, std::size_t offset, ExprPtr first, Operands... rest) {
  auto expr = make(kind, offset);
  expr->operands.push_back(std::move(first));
  (expr->operands.push_back(std::move(rest)), ...);
  return expr;
}

std::optional<Operator> find_operator(
    const Token& token, std::initializer_list<std::pair<std::string_view, Operator>> operators) {
  if (token.kind != Token::Kind::symbol) return std::nullopt;
  for (const auto& [symbol, op] : operators) {
    if (token.text == symbol) return op;
  }
  return std::nullopt;
}

}  // namespace

bool ExpressionParser::skip_symbol(std::string_view symbol) {
  if (!current().is_symbol(symbol)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!current().is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_symbol(std::string_view symbol) {
  if (!skip_symbol(symbol)) fail_expected("'" + std::string(symbol) + "'");
}

std::string ExpressionParser::expect_name() {
  if (current().kind != Token::Kind::name) fail_expected("a name");
  return take().text;
}

void ExpressionParser::fail_expected(std::string_view what) const {
  const Token& token = current();
  std::string got;
  switch (token.kind) {
    case Token::Kind::end: got = "the end of the template"; break;
    case Token::Kind::block_end: got = "the end of the tag"; break;
    case Token::Kind::variable_end: got = "the end of the print tag"; break;
    case Token::Kind::string: got = "a string"; break;
    case Token::Kind::integer:
    case Token::Kind::real: got = "a number"; break;
    case Token::Kind::data: got = "text"; break;
    default: got = "'" + token.text + "'";
  }
  fail_syntax(token.offset, "expected " + std::string(what) + ", got " + got);
}

void ExpressionParser::fail_depth() const {
  throw TemplateError{Error(ErrorCode::resource_exhausted, "the template nests too deep")
                          .with_reason("template_limit")
                          .at(current().offset)};
}

void ExpressionParser::check_height(std::size_t height) const {
  if (height > max_depth_) fail_depth();
}

ExprPtr ExpressionParser::finish(std::unique_ptr<Expr> expr) const {
  std::size_t height = 0;
  const auto add = [&](const ExprPtr& child) {
    if (child != nullptr) height = std::max(height, child->height);
  };
  for (const ExprPtr& operand : expr->operands) add(operand);
  for (const ExprPtr& argument : expr->arguments.positional) add(argument);
  for (const auto& [_, argument] : expr->arguments.named) add(argument);
  expr->height = height + 1;
  check_height(expr->height);
  return expr;
}

ExprPtr ExpressionParser::binary(Operator op, std::size_t offset, ExprPtr left,
                                 ExprPtr right) const {
  auto expr = make(Kind::binary, offset, std::move(left), std::move(right));
  expr->op = op;
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::expression(bool with_conditional) {
  const Level level(*this);
  return with_conditional ? conditional() : logical_or();
}

bool ExpressionParser::at_tuple_end() const {
  const Token::Kind kind = current().kind;
  return kind == Token::Kind::variable_end || kind == Token::Kind::block_end ||
         current().is_symbol(")");
}

ExprPtr ExpressionParser::tuple(bool with_conditional) {
  const std::size_t offset = current().offset;
  ExprPtr first = expression(with_conditional);
  if (!current().is_symbol(",")) return first;
  auto items = make(Kind::tuple, offset, std::move(first));
  while (skip_symbol(",") && !at_tuple_end()) {
    items->operands.push_back(expression(with_conditional));
  }
  return finish(std::move(items));
}

ExprPtr ExpressionParser::conditional() {
  const std::size_t offset = current().offset;
  ExprPtr value = logical_or();
  while (skip_name("if")) {
    ExprPtr test = logical_or();
    ExprPtr otherwise;
    if (skip_name("else")) {
      const Level level(*this);
      otherwise = conditional();
    }
    value = finish(
        make(Kind::conditional, offset, std::move(value), std::move(test), std::move(otherwise)));
  }
  return value;
}

ExprPtr ExpressionParser::logical_or() {
  const std::size_t offset = current().offset;
  ExprPtr left = logical_and();
  while (skip_name("or")) {
    left = finish(make(Kind::logical_or, offset, std::move(left), logical_and()));
  }
  return left;
}

ExprPtr ExpressionParser::logical_and() {
  const std::size_t offset = current().offset;
  ExprPtr left = logical_not();
  while (skip_name("and")) {
    left = finish(make(Kind::logical_and, offset, std::move(left), logical_not()));
  }
  return left;
}

ExprPtr ExpressionParser::logical_not() {
  const std::size_t offset = current().offset;
  if (!current().is_name("not")) return compare();
  const Level level(*this);
  take();
  return finish(make(Kind::logical_not, offset, logical_not()));
}

ExprPtr ExpressionParser::compare() {
  const std::size_t offset = current().offset;
  ExprPtr first = sum();
  std::unique_ptr<Expr> expr;
  while (true) {
    auto op = find_operator(current(), {{"==", Operator::equal},
                                        {"!=", Operator::not_equal},
                                        {"<", Operator::less},
                                        {"<=", Operator::less_equal},
                                        {">", Operator::greater},
                                        {">=", Operator::greater_equal}});
    if (op) {
      take();
    } else if (skip_name("in")) {
      op = Operator::in;
    } else if (current().is_name("not") && look().is_name("in")) {
      take();
      take();
      op = Operator::not_in;
    } else {
      break;
    }
    if (expr == nullptr) expr = make(Kind::compare, offset, std::move(first));
    expr->comparisons.push_back(*op);
    expr->operands.push_back(sum());
  }
  return expr == nullptr ? std::move(first) : finish(std::move(expr));
}

ExprPtr ExpressionParser::sum() {
  const std::size_t offset = current().offset;
  ExprPtr left = concat();
  while (const auto op =
             find_operator(current(), {{"+", Operator::add}, {"-", Operator::subtract}})) {
    take();
    left = binary(*op, offset, std::move(left), concat());
  }
  return left;
}

ExprPtr ExpressionParser::concat() {
  const std::size_t offset = current().offset;
  ExprPtr first = product();
  if (!current().is_symbol("~")) return first;
  auto expr = make(Kind::concat, offset, std::move(first));
  while (skip_symbol("~")) expr->operands.push_back(product());
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::product() {
  const std::size_t offset = current().offset;
  ExprPtr left = power();
  while (const auto op = find_operator(current(), {{"*", Operator::multiply},
                                                   {"/", Operator::divide},
                                                   {"//", Operator::floor_divide},
                                                   {"%", Operator::modulo}})) {
    take();
    left = binary(*op, offset, std::move(left), power());
  }
  return left;
}

ExprPtr ExpressionParser::power() {
  const std::size_t offset = current().offset;
  ExprPtr left = unary();
  while (skip_symbol("**")) left = binary(Operator::power, offset, std::move(left), unary());
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  const std::size_t offset = current().offset;
  ExprPtr expr;
  if (current().is_symbol("-") || current().is_symbol("+")) {
    const Level level(*this);
    const Kind kind = take().text == "-" ? Kind::negative : Kind::positive;
    expr = finish(make(kind, offset, unary(false)));
  } else {
    expr = name_or_literal();
  }
  expr = postfix(std::move(expr));
  return with_filters ? filters_and_tests(std::move(expr)) : std::move(expr);
}

ExprPtr ExpressionParser::name_or_literal() {
  const Token& token = current();
  const auto constant = [&](Value value) {
    auto expr = make(Kind::constant, token.offset);
    expr->value = std::move(value);
    return expr;
  };
  switch (token.kind) {
    case Token::Kind::name: {
      take();
      if (token.text == "true" || token.text == "True") return constant(Value(true));
      if (token.text == "false" || token.text == "False") return constant(Value(false));
      if (token.text == "none" || token.text == "None") return constant(Value());
      if (token.text == "caller") {
        for (bool* uses : caller_uses_) *uses = true;
      } else if (!caller_uses_.empty() && (token.text == "varargs" || token.text == "kwargs")) {
        throw TemplateError{
            Error(ErrorCode::unsupported, "not supported: '" + token.text + "' in a macro")
                .at(token.offset)};
      }
      auto expr = make(Kind::name, token.offset);
      expr->text = token.text;
      return expr;
    }
    case Token::Kind::string: {
      std::string text = take().text;
      while (current().kind == Token::Kind::string) text += take().text;
      return constant(Value(make_literal(std::move(text))));
    }
    case Token::Kind::integer: take(); return constant(Value(token.integer));
    case Token::Kind::real: take(); return constant(Value(token.real));
    default: break;
  }
  if (skip_symbol("(")) {
    if (skip_symbol(")")) return make(Kind::tuple, token.offset);
    ExprPtr inner = tuple();
    expect_symbol(")");
    return inner;
  }
  if (token.is_symbol("[")) return list();
  if (token.is_symbol("{")) return dict();
  fail_expected("an expression");
}

ExprPtr ExpressionParser::list() {
  auto expr = make(Kind::list, take().offset);
  while (!current().is_symbol("]")) {
    if (!expr->operands.empty()) expect_symbol(",");
    if (current().is_symbol("]")) break;
    expr->operands.push_back(expression());
  }
  expect_symbol("]");
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::dict() {
  auto expr = make(Kind::dict, take().offset);
  while (!current().is_symbol("}")) {
    if (!expr->operands.empty()) expect_symbol(",");
    if (current().is_symbol("}")) break;
    expr->operands.push_back(expression());
    expect_symbol(":");
    expr->operands.push_back(expression());
  }
  expect_symbol("}");
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::postfix(ExprPtr expr) {
  while (true) {
    if (current().is_symbol(".") || current().is_symbol("[")) {
      expr = subscript(std::move(expr));
    } else if (current().is_symbol("(")) {
      auto call = make(Kind::call, current().offset, std::move(expr));
      call->arguments = arguments();
      expr = finish(std::move(call));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr object) {
  const std::size_t offset = current().offset;
  if (take().text == ".") {
    if (current().kind == Token::Kind::name) {
      auto expr = make(Kind::attribute, offset, std::move(object));
      expr->text = take().text;
      return finish(std::move(expr));
    }
    if (current().kind != Token::Kind::integer) fail_expected("a name or a number");
    return finish(make(Kind::item, offset, std::move(object), name_or_literal()));
  }
  ExprPtr start;
  if (!current().is_symbol(":")) {
    start = expression();
    if (current().is_symbol(",")) fail_expected("']' (a tuple as index is not supported)");
    if (skip_symbol("]")) {
      return finish(make(Kind::item, offset, std::move(object), std::move(start)));
    }
  }
  expect_symbol(":");
  const auto bound = [&]() -> ExprPtr {
    return current().is_symbol(":") || current().is_symbol("]") ? nullptr : expression();
  };
  ExprPtr stop = bound();
  ExprPtr step;
  if (skip_symbol(":")) step = bound();
  expect_symbol("]");
  return finish(make(Kind::slice, offset, std::move(object), std::move(start), std::move(stop),
                     std::move(step)));
}

CallArguments ExpressionParser::arguments() {
  CallArguments result;
  expect_symbol("(");
  bool first = true;
  while (!current().is_symbol(")")) {
    if (!first) {
      expect_symbol(",");
      if (current().is_symbol(")")) break;
    }
    first = false;
    if (current().is_symbol("*") || current().is_symbol("**")) {
      throw TemplateError{
          Error(ErrorCode::unsupported, "not supported: '" + current().text + "' in a call")
              .at(current().offset)};
    }
    if (current().kind == Token::Kind::name && look().is_symbol("=")) {
      const std::size_t offset = current().offset;
      std::string name = take().text;
      take();
      for (const auto& [other, _] : result.named) {
        if (other == name) fail_syntax(offset, "keyword argument repeated: " + name);
      }
      result.named.emplace_back(std::move(name), expression());
    } else {
      if (!result.named.empty()) {
        fail_syntax(current().offset, "a positional argument follows a keyword argument");
      }
      result.positional.push_back(expression());
    }
  }
  expect_symbol(")");
  return result;
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect_name();
  while (skip_symbol(".")) name += "." + expect_name();
  return name;
}

ExprPtr ExpressionParser::filters(ExprPtr input, bool first_has_pipe) {
  for (bool first = true; (first && !first_has_pipe) || current().is_symbol("|"); first = false) {
    if (!first || first_has_pipe) take();
    auto expr = make(Kind::filter, current().offset, std::move(input));
    expr->text = dotted_name();
    expr->builtin = find_filter(expr->text);
    if (expr->builtin == nullptr) {
      throw TemplateError{
          Error(ErrorCode::unsupported, "no filter named '" + expr->text + "'").at(expr->offset)};
    }
    if (current().is_symbol("(")) expr->arguments = arguments();
    input = finish(std::move(expr));
  }
  return input;
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr expr) {
  while (true) {
    if (current().is_symbol("|")) {
      expr = filters(std::move(expr), true);
    } else if (current().is_name("is")) {
      expr = test(std::move(expr));
    } else if (current().is_symbol("(")) {
      auto call = make(Kind::call, current().offset, std::move(expr));
      call->arguments = arguments();
      expr = finish(std::move(call));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::test(ExprPtr input) {
  const std::size_t offset = take().offset;
  const bool negated = skip_name("not");
  auto expr = make(Kind::test, offset, std::move(input));
  expr->text = dotted_name();
  expr->builtin = find_test(expr->text);
  if (expr->builtin == nullptr) {
    throw TemplateError{
        Error(ErrorCode::unsupported, "no test named '" + expr->text + "'").at(offset)};
  }
  const Token& token = current();
  const bool starts_operand =
      token.kind == Token::Kind::name || token.kind == Token::Kind::string ||
      token.kind == Token::Kind::integer || token.kind == Token::Kind::real ||
      token.is_symbol("[") || token.is_symbol("{");
  if (token.is_symbol("(")) {
    expr->arguments = arguments();
  } else if (starts_operand && !token.is_name("else") && !token.is_name("or") &&
             !token.is_name("and")) {
    if (token.is_name("is")) fail_syntax(token.offset, "tests with 'is' cannot be chained");
    expr->arguments.positional.push_back(postfix(name_or_literal()));
  }
  ExprPtr result = finish(std::move(expr));
  return negated ? finish(make(Kind::logical_not, offset, std::move(result))) : std::move(result);
}

}  // namespace plimsoll::jinja
