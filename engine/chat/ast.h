// A parsed template: expressions and statements, each with the byte offset it began at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/chat/builtins.h"
#include "engine/chat/value.h"

namespace plimsoll::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

enum class Operator : std::uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
};

struct Expr {
  enum class Kind : std::uint8_t {
    constant,   // value
    name,       // text
    list,       // operands
    tuple,      // operands
    dict,       // operands: key, value, key, value, ...
    attribute,  // operands[0] . text
    item,       // operands[0] [ operands[1] ]
    slice,      // operands[0] [ operands[1] : operands[2] : operands[3] ], null where left out
    call,       // operands[0] ( arguments )
    filter,     // operands[0] | filter(arguments); null for the text of a filter block
    test,       // operands[0] is test(arguments)
    negative,
    positive,
    logical_not,  // operands[0]
    logical_and,
    logical_or,   // operands[0], operands[1]
    binary,       // operands[0] op operands[1]
    compare,      // operands[0] comparisons[0] operands[1] comparisons[1] ...
    concat,       // operands ~ ...
    conditional,  // operands[0] if operands[1] else operands[2], null where left out
  };

  Kind kind;
  std::size_t offset;
  std::size_t height = 1;  // of the tree: what evaluating it nests
  Value value;
  std::string text;
  Operator op{};
  std::vector<Operator> comparisons;
  std::vector<ExprPtr> operands;
  CallArguments arguments;
  Builtin builtin = nullptr;  // of a filter or test
};

// Where an assignment goes: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  std::string name;
  std::string attribute;      // empty: the name itself
  std::vector<Target> parts;  // not empty: a tuple
  std::size_t offset = 0;
};

struct Statement;
using Block = std::vector<std::unique_ptr<const Statement>>;

struct Parameter {
  std::string name;
  ExprPtr fallback;  // null: none
};

// The part of a macro or call block that is called.
struct Callable {
  std::string name;
  std::vector<Parameter> parameters;
  Block body;
  bool uses_caller = false;
};

struct Statement {
  enum class Kind : std::uint8_t {
    text,         // literal
    output,       // expression
    conditional,  // branches: the first whose test holds (null: else)
    loop,         // for target in expression if test; body; otherwise
    set,          // target = expression
    set_block,    // target = body, through the filters in expression (null: none)
    with,         // assignments; body
    macro,        // callable
    call,         // expression (a call), with callable as its caller
    filter,       // body through the filters in expression
    generation,   // body, in a scope of its own
    break_,
    continue_,
  };

  struct Branch {
    ExprPtr test;
    Block body;
  };

  Kind kind;
  std::size_t offset;
  std::size_t height = 1;
  String literal;
  ExprPtr expression;
  ExprPtr test;
  Target target;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  std::vector<Branch> branches;
  Block body;
  Block otherwise;
  Callable callable;
};

}  // namespace plimsoll::jinja
