// Prompts that no user writes: long runs of the same few tokens cost a node as much as text does,
// and make models go on for ever.
#pragma once

#include <cstdint>
#include <span>

namespace plimsoll::cluster {

struct PromptShape {
  static constexpr std::size_t least_tokens = 1024;  // shorter ones are let through
  static constexpr std::size_t longest_period = 16;
};

// Whether nine tenths of a long prompt repeat what stood a few tokens before, always as many.
bool repeats_endlessly(std::span<const std::int32_t> prompt);

}  // namespace plimsoll::cluster
