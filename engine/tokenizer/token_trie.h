// Tokens that are found as a whole wherever they stand in a text, by their bytes.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/types.h"

namespace plimsoll {

class TokenTrie {
 public:
  // Of equal strings the first counts; an empty one is ignored.
  void add(std::string_view token, TokenId id);
  bool empty() const { return nodes_.empty(); }

  struct Match {
    TokenId id = no_token;
    std::size_t length = 0;
  };
  // The longest token that `text` begins with.
  Match longest(std::string_view text) const;

  std::uint64_t memory_bytes() const { return nodes_.capacity() * sizeof(Node); }

 private:
  struct Node {
    TokenId id = no_token;
    std::uint32_t child = 0;    // the first; 0 is none
    std::uint32_t sibling = 0;  // the next; 0 is none
    unsigned char byte = 0;
  };
  // The first 256 are the roots, by a token's first byte.
  std::vector<Node> nodes_;
};

}  // namespace plimsoll
