#include "cli/quantity.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace plimsoll::cli {

const Units byte_units = {{"", 1}, {"KiB", 1U << 10}, {"MiB", 1U << 20}, {"GiB", 1U << 30}};
const Units time_units = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};

Result<std::uint64_t> parse_quantity(const std::string& text, const Units& units,
                                     const std::string& example) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  const auto found =
      std::find_if(units.begin(), units.end(), [&](const auto& u) { return u.first == unit; });
  if (error != std::errc{} || found == units.end() || number > (1ULL << 50) / found->second) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' is not understood; write it like {}", text, example));
  }
  return number * found->second;
}

Result<std::uint64_t> parse_bytes(const std::string& text) {
  return parse_quantity(text, byte_units, "512MiB or 4GiB");
}

Result<std::uint64_t> parse_time_ms(const std::string& text) {
  return parse_quantity(text, time_units, "500ms, 30s or 10m");
}

std::string show_quantity(std::uint64_t value, const Units& units) {
  const std::pair<std::string, std::uint64_t>* best = &units.front();
  for (const auto& unit : units) {
    if (value != 0 && value % unit.second == 0 && unit.second > best->second) best = &unit;
  }
  return std::to_string(value / best->second) + best->first;
}

}  // namespace plimsoll::cli
