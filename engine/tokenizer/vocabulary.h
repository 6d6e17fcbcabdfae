// A vocabulary: token strings in one pool, found by id or by content.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/types.h"

namespace plimsoll {

class Vocabulary {
 public:
  // The offsets into the pool have 32 bits.
  static constexpr std::uint64_t max_bytes = 1_GiB;

  // How a token may come out of a text.
  enum class Kind : std::uint8_t {
    normal,
    byte,          // stands for one byte of what has no token
    special,       // control: read in trusted text only
    user_defined,  // read in any text, before the algorithm runs
    unused,        // never read
  };

  // Ids are given in order. Of equal strings the first is found. All texts together are at most
  // max_bytes.
  TokenId add(std::string_view text, Kind kind);
  void index();  // once, after the last add()

  std::uint32_t size() const { return static_cast<std::uint32_t>(kinds_.size()); }
  bool contains(TokenId id) const { return id >= 0 && static_cast<std::uint32_t>(id) < size(); }
  std::string_view text(TokenId id) const {
    return std::string_view(pool_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }
  Kind kind(TokenId id) const { return kinds_[id]; }
  TokenId find(std::string_view text) const;  // no_token if absent
  std::size_t longest_bytes() const { return longest_bytes_; }

  std::uint64_t memory_bytes() const;

 private:
  std::string pool_;
  std::vector<std::uint32_t> offsets_{0};
  std::vector<Kind> kinds_;
  std::vector<TokenId> table_;  // open addressing, a power of two long
  std::size_t longest_bytes_ = 0;
};

}  // namespace plimsoll
