// SHA-256, for the names of what is cached.
#pragma once

#include <string>
#include <string_view>

namespace plimsoll::storage {

std::string digest_of(std::string_view text);  // 32 bytes

}  // namespace plimsoll::storage
