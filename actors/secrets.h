// Keys and tokens: made of random bytes, kept only as their SHA-256.
#pragma once

#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace plimsoll {

// `prefix` and 43 characters of base64url: 256 bits. Error: internal (no randomness to be had).
Result<std::string> make_secret(std::string_view prefix);
std::string sha256_hex(std::string_view secret);
// Takes the same time wherever they differ.
bool same_digest(std::string_view a, std::string_view b);

}  // namespace plimsoll
