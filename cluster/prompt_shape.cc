#include "cluster/prompt_shape.h"

#include <cstddef>

namespace plimsoll::cluster {

bool repeats_endlessly(std::span<const std::int32_t> prompt) {
  if (prompt.size() < PromptShape::least_tokens) return false;
  const std::size_t strays_allowed = prompt.size() / 10;
  for (std::size_t period = 1; period <= PromptShape::longest_period; ++period) {
    std::size_t strays = period;
    for (std::size_t i = period; i < prompt.size() && strays <= strays_allowed; ++i) {
      strays += prompt[i] != prompt[i - period];
    }
    if (strays <= strays_allowed) return true;
  }
  return false;
}

}  // namespace plimsoll::cluster
