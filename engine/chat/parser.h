// Tokens to a tree, by the grammar of jinja2.parser.
#pragma once

#include <string_view>

#include "engine/chat/ast.h"

namespace plimsoll::jinja {

// Throws TemplateError: malformed or unsupported, with the offset; resource_exhausted where the
// source nests deeper than max_depth. `source` is normalized, valid UTF-8.
Block parse_template(std::string_view source, std::size_t max_depth);

}  // namespace plimsoll::jinja
