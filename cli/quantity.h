// Numbers with units, as the configuration and the flags write them: 512MiB, 30s.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll::cli {

// Names and factors; the factor is in the smallest unit.
using Units = std::vector<std::pair<std::string, std::uint64_t>>;
extern const Units byte_units;  // bytes; KiB, MiB, GiB
extern const Units time_units;  // milliseconds: ms, s, m, h

// A whole number and one of the units. Errors: invalid_argument, naming the example.
Result<std::uint64_t> parse_quantity(const std::string& text, const Units& units,
                                     const std::string& example);
Result<std::uint64_t> parse_bytes(const std::string& text);
Result<std::uint64_t> parse_time_ms(const std::string& text);

// In the largest unit that leaves no fraction.
std::string show_quantity(std::uint64_t value, const Units& units);

}  // namespace plimsoll::cli
