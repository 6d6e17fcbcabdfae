// Small texts of HTTP.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace plimsoll {

// The path of a request target ("/a%20b?c", "http://host/a"), percent-decoded, without the query.
// What cannot be decoded stays as it is.
std::string path_of_target(std::string_view target);

// Equal but for case, as header values such as "chunked" compare.
bool same_word(std::string_view a, std::string_view b);

// "application/json" of "Application/JSON; charset=utf-8".
std::string media_type(std::string_view content_type);

// The token of "Bearer TOKEN"; empty if it is anything else.
std::string_view bearer_token(std::string_view authorization);

// Fit for one word of a log line: printable ASCII without spaces and quotes, and not long.
std::string log_word(std::string_view text);

std::string http_date();  // now, as RFC 9110 wants it
std::string hex_number(std::uint64_t number);

}  // namespace plimsoll
