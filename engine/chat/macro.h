// Scopes of names, and macros, which keep the scope they were defined in.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/chat/ast.h"
#include "engine/chat/value.h"

namespace plimsoll::jinja {

struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string_view, Value>> names;  // views into the program
  Charge charge;

  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

// Owned by the render: its scope may hold the macro.
struct Macro {
  std::string name;
  const Callable* callable;
  std::shared_ptr<Scope> scope;
  Charge charge;
};

}  // namespace plimsoll::jinja
