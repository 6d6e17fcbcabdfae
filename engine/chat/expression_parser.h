// The expressions of a template: jinja2.parser's parse_expression and what is below it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/ast.h"
#include "engine/chat/lexer.h"

namespace plimsoll::jinja {

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, std::size_t max_depth)
      : tokens_(std::move(tokens)), max_depth_(max_depth) {}

  ExprPtr expression(bool with_conditional = true);
  // An expression, or a tuple without parentheses.
  ExprPtr tuple(bool with_conditional = true);
  // One or more filters; `input` null: the text of a block.
  ExprPtr filters(ExprPtr input, bool first_has_pipe);
  ExprPtr name_or_literal();

 protected:
  // One more level of nesting, which is frames of this thread's stack, until destroyed.
  class Level {
   public:
    explicit Level(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.depth_ > parser_.max_depth_) parser_.fail_depth();
    }
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool skip_symbol(std::string_view symbol);
  bool skip_name(std::string_view name);
  void expect_symbol(std::string_view symbol);
  std::string expect_name();
  [[noreturn]] void fail_expected(std::string_view what) const;
  [[noreturn]] void fail_depth() const;
  void check_height(std::size_t height) const;

  // Whether the code now parsed is in a macro, and which special names it used.
  std::vector<bool*> caller_uses_;

 private:
  ExprPtr conditional();
  ExprPtr logical_or();
  ExprPtr logical_and();
  ExprPtr logical_not();
  ExprPtr compare();
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filters = true);
  ExprPtr postfix(ExprPtr expr);
  ExprPtr filters_and_tests(ExprPtr expr);
  ExprPtr test(ExprPtr expr);
  ExprPtr subscript(ExprPtr expr);
  ExprPtr list();
  ExprPtr dict();
  ExprPtr finish(std::unique_ptr<Expr> expr) const;
  ExprPtr binary(Operator op, std::size_t offset, ExprPtr left, ExprPtr right) const;
  CallArguments arguments();
  std::string dotted_name();
  bool at_tuple_end() const;

  std::vector<Token> tokens_;
  std::size_t max_depth_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
};

}  // namespace plimsoll::jinja
