// JSON whose tree is bounded while it is made, and not looked at afterwards: a few bytes of a body
// can stand for a hundred of a tree.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

#include "engine/base/result.h"

namespace plimsoll {

// What reading a body of text takes in bytes, for each of its own: the body, and the parser's
// buffer, which is twice a string while that grows. The tree's small values come on top.
inline constexpr std::uint64_t json_text_copies = 3;

// Asked before the memory that reading takes grows to so many bytes in all, the body included;
// false: it may not. Where there is none, the limits alone hold.
using HoldBytes = std::function<bool(std::uint64_t bytes)>;

// Errors: invalid_argument (no JSON in UTF-8; nested deeper than 64 levels; over 2^20 values; what
// `hold` refused).
Result<nlohmann::json> parse_bounded_json(std::string_view body, const HoldBytes& hold);

}  // namespace plimsoll
