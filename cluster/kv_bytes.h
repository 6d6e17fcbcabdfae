// What a sequence's keys and values take of memory, by its tokens.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plimsoll::cluster {

struct KvBytes {
  std::uint64_t token = 0;     // of a token in all layers; 0: not known
  std::uint64_t windowed = 0;  // of that, in layers that keep the last `window` tokens alone
  std::uint32_t window = 0;

  double of(double tokens) const {
    return static_cast<double>(token) * tokens -
           static_cast<double>(windowed) * std::max(0.0, tokens - window);
  }
};

}  // namespace plimsoll::cluster
