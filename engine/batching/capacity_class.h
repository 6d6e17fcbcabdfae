// Kinds of work that are told apart when memory is shared out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace plimsoll {

// What work is of a kind in its demands; embeddings have an engine, and memory, of their own.
enum class CapacityClass : std::uint8_t { low_latency, batch, long_context };
inline constexpr std::size_t capacity_classes = 3;
std::string_view to_string(CapacityClass of);  // "low_latency", ...

}  // namespace plimsoll
