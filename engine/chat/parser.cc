#include "engine/chat/parser.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/chat/expression_parser.h"

namespace plimsoll::jinja {
namespace {

using Kind = Statement::Kind;

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block parse() { return body({}); }

 private:
  using Ends = std::initializer_list<std::string_view>;

  static std::unique_ptr<Statement> make(Kind kind, std::size_t offset) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->offset = offset;
    return statement;
  }

  void add(Block& block, std::unique_ptr<Statement> statement) const {
    std::size_t height = 0;
    const auto add_expr = [&](const ExprPtr& expr) {
      if (expr != nullptr) height = std::max(height, expr->height);
    };
    const auto add_block = [&](const Block& inner) {
      for (const auto& child : inner) height = std::max(height, child->height);
    };
    add_expr(statement->expression);
    add_expr(statement->test);
    for (const auto& [_, expr] : statement->assignments) add_expr(expr);
    for (const auto& branch : statement->branches) {
      add_expr(branch.test);
      add_block(branch.body);
    }
    add_block(statement->body);
    add_block(statement->otherwise);
    add_block(statement->callable.body);
    for (const auto& parameter : statement->callable.parameters) add_expr(parameter.fallback);
    statement->height = height + 1;
    check_height(statement->height);
    block.push_back(std::move(statement));
  }

  void expect_block_end() {
    if (current().kind != Token::Kind::block_end) fail_expected("the end of the tag");
    take();
  }

  // Statements up to a tag named in `ends`, which is then current; all of them if it is empty.
  Block body(Ends ends) {
    const Level level(*this);
    Block block;
    while (true) {
      const Token& token = current();
      if (token.kind == Token::Kind::data) {
        auto statement = make(Kind::text, token.offset);
        statement->literal = make_literal(take().text);
        add(block, std::move(statement));
      } else if (token.kind == Token::Kind::variable_begin) {
        take();
        auto statement = make(Kind::output, token.offset);
        statement->expression = tuple();
        if (current().kind != Token::Kind::variable_end) fail_expected("the end of the print tag");
        take();
        add(block, std::move(statement));
      } else if (token.kind == Token::Kind::block_begin) {
        take();
        if (current().kind != Token::Kind::name) fail_expected("the name of a tag");
        if (std::find(ends.begin(), ends.end(), current().text) != ends.end()) return block;
        statement(block, token.offset, ends);
        expect_block_end();
      } else {
        if (ends.size() != 0) fail_expected("'" + std::string(*ends.begin()) + "'");
        return block;
      }
    }
  }

  // The body of a tag, from the end of its head to the tag that ends it, whose name is taken.
  Block tag_body(Ends ends) {
    skip_symbol(":");
    expect_block_end();
    return body(ends);
  }
  Block whole_body(std::string_view end) {
    Block block = tag_body({end});
    take();
    return block;
  }

  void statement(Block& block, std::size_t offset, Ends ends) {
    const std::string tag = current().text;
    if (tag == "if") return add(block, conditional(offset));
    if (tag == "for") return add(block, loop(offset));
    if (tag == "set") return add(block, set(offset));
    if (tag == "with") return add(block, with(offset));
    if (tag == "macro") return add(block, macro(offset));
    if (tag == "call") return add(block, call(offset));
    if (tag == "filter") return add(block, filter(offset));
    if (tag == "generation") return add(block, generation(offset));
    if (tag == "print") return print(block, offset);
    if (tag == "break" || tag == "continue") {
      if (loop_depth_ == 0) fail_syntax(offset, "'" + tag + "' outside a loop");
      take();
      return add(block, make(tag == "break" ? Kind::break_ : Kind::continue_, offset));
    }
    static constexpr std::array<std::string_view, 6> known = {"extends", "block", "include",
                                                              "import",  "from",  "autoescape"};
    if (std::find(known.begin(), known.end(), tag) != known.end()) {
      throw TemplateError{
          Error(ErrorCode::unsupported, "not supported: the tag '" + tag + "'").at(offset)};
    }
    std::string message = "unknown tag '" + tag + "'";
    if (ends.size() != 0) message += "; expected '" + std::string(*ends.begin()) + "'";
    fail_syntax(offset, message);
  }

  std::unique_ptr<Statement> conditional(std::size_t offset) {
    auto statement = make(Kind::conditional, offset);
    do {
      take();  // if, elif
      Statement::Branch branch;
      branch.test = tuple(false);
      branch.body = tag_body({"elif", "else", "endif"});
      statement->branches.push_back(std::move(branch));
    } while (current().is_name("elif"));
    if (take().text == "else") {
      statement->branches.push_back({nullptr, whole_body("endif")});
    }
    return statement;
  }

  std::unique_ptr<Statement> loop(std::size_t offset) {
    take();
    auto statement = make(Kind::loop, offset);
    statement->target = target("in");
    check_not_loop(statement->target);
    if (!skip_name("in")) fail_expected("'in'");
    statement->expression = tuple(false);
    if (skip_name("if")) statement->test = expression();
    if (current().is_name("recursive")) {
      throw TemplateError{
          Error(ErrorCode::unsupported, "not supported: a recursive loop").at(offset)};
    }
    ++loop_depth_;
    ++for_depth_;
    statement->body = tag_body({"endfor", "else"});
    --loop_depth_;
    if (take().text == "else") statement->otherwise = whole_body("endfor");
    --for_depth_;
    return statement;
  }

  std::unique_ptr<Statement> set(std::size_t offset) {
    take();
    auto statement = make(Kind::set, offset);
    statement->target = target("", true);
    if (for_depth_ > 0) check_not_loop(statement->target);
    if (skip_symbol("=")) {
      statement->expression = tuple();
      return statement;
    }
    statement->kind = Kind::set_block;
    if (current().is_symbol("|")) statement->expression = filters(nullptr, true);
    statement->body = whole_body("endset");
    return statement;
  }

  std::unique_ptr<Statement> with(std::size_t offset) {
    take();
    auto statement = make(Kind::with, offset);
    while (current().kind != Token::Kind::block_end) {
      if (!statement->assignments.empty()) expect_symbol(",");
      Target to = target("");
      expect_symbol("=");
      statement->assignments.emplace_back(std::move(to), expression());
    }
    statement->body = whole_body("endwith");
    return statement;
  }

  // What is inside is a function of its own: no loop's break reaches it.
  void callable_body(Callable& callable, std::string_view end) {
    const int loops = std::exchange(loop_depth_, 0);
    caller_uses_.push_back(&callable.uses_caller);
    callable.body = whole_body(end);
    caller_uses_.pop_back();
    loop_depth_ = loops;
  }

  void signature(Callable& callable) {
    expect_symbol("(");
    while (!current().is_symbol(")")) {
      if (!callable.parameters.empty()) expect_symbol(",");
      const std::size_t offset = current().offset;
      Parameter parameter;
      parameter.name = expect_name();
      check_assignable(parameter.name, offset);
      if (parameter.name == "caller") fail_syntax(offset, "a parameter cannot be named 'caller'");
      for (const Parameter& other : callable.parameters) {
        if (other.name == parameter.name) fail_syntax(offset, "the parameter is there twice");
      }
      if (skip_symbol("=")) {
        parameter.fallback = expression();
      } else if (!callable.parameters.empty() && callable.parameters.back().fallback != nullptr) {
        fail_syntax(offset, "a parameter without default follows one with a default");
      }
      callable.parameters.push_back(std::move(parameter));
    }
    expect_symbol(")");
  }

  std::unique_ptr<Statement> macro(std::size_t offset) {
    take();
    auto statement = make(Kind::macro, offset);
    const std::size_t name_offset = current().offset;
    statement->callable.name = expect_name();
    check_assignable(statement->callable.name, name_offset);
    signature(statement->callable);
    callable_body(statement->callable, "endmacro");
    return statement;
  }

  std::unique_ptr<Statement> call(std::size_t offset) {
    take();
    auto statement = make(Kind::call, offset);
    statement->callable.name = "caller";
    if (current().is_symbol("(")) signature(statement->callable);
    statement->expression = expression();
    if (statement->expression->kind != Expr::Kind::call) fail_syntax(offset, "expected a call");
    callable_body(statement->callable, "endcall");
    return statement;
  }

  std::unique_ptr<Statement> filter(std::size_t offset) {
    take();
    auto statement = make(Kind::filter, offset);
    statement->expression = filters(nullptr, false);
    statement->body = whole_body("endfilter");
    return statement;
  }

  std::unique_ptr<Statement> generation(std::size_t offset) {
    take();
    auto statement = make(Kind::generation, offset);
    const int loops = std::exchange(loop_depth_, 0);
    statement->body = whole_body("endgeneration");
    loop_depth_ = loops;
    return statement;
  }

  void print(Block& block, std::size_t offset) {
    take();
    for (bool first = true; current().kind != Token::Kind::block_end; first = false) {
      if (!first) expect_symbol(",");
      auto statement = make(Kind::output, offset);
      statement->expression = expression();
      add(block, std::move(statement));
    }
  }

  // A name, an attribute of one where that is allowed, or a tuple of them up to the name `end`.
  Target target(std::string_view end, bool with_attributes = false) {
    Target first = one_target(with_attributes);
    if (!current().is_symbol(",")) return first;
    Target result;
    result.offset = first.offset;
    result.parts.push_back(std::move(first));
    while (skip_symbol(",")) {
      if (current().is_symbol("=") || current().is_symbol(")") ||
          current().kind == Token::Kind::block_end || (!end.empty() && current().is_name(end))) {
        break;
      }
      result.parts.push_back(one_target(with_attributes));
    }
    return result;
  }

  Target one_target(bool with_attributes) {
    const Level level(*this);
    if (skip_symbol("(")) {
      Target inner = target("", with_attributes);
      expect_symbol(")");
      return inner;
    }
    Target result;
    result.offset = current().offset;
    result.name = expect_name();
    check_assignable(result.name, result.offset);
    if (with_attributes && skip_symbol(".")) result.attribute = expect_name();
    return result;
  }

  static void check_assignable(const std::string& name, std::size_t offset) {
    static constexpr std::array<std::string_view, 6> reserved = {"true",  "True", "false",
                                                                 "False", "none", "None"};
    if (std::find(reserved.begin(), reserved.end(), name) != reserved.end()) {
      fail_syntax(offset, "cannot assign to '" + name + "'");
    }
  }

  static void check_not_loop(const Target& target) {
    for (const Target& part : target.parts) check_not_loop(part);
    if (target.name == "loop" && target.attribute.empty()) {
      fail_syntax(target.offset, "cannot assign to the special variable 'loop' of a for loop");
    }
  }

  int loop_depth_ = 0;  // loops that break and continue reach
  int for_depth_ = 0;   // all loops around
};

}  // namespace

Block parse_template(std::string_view source, std::size_t max_depth) {
  return Parser(tokenize(source), max_depth).parse();
}

}  // namespace plimsoll::jinja
