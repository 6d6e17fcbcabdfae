// Unicode's canonical forms (Unicode Standard Annex 15) of well-formed UTF-8. Time is O(n log n)
// also for long runs of combining marks.
#pragma once

#include <string>
#include <string_view>

namespace plimsoll {

std::string decompose(std::string_view text);  // NFD
std::string compose(std::string_view text);    // NFC

}  // namespace plimsoll
