#include "engine/tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace plimsoll {

TokenId Vocabulary::add(std::string_view text, Kind kind) {
  pool_ += text;
  offsets_.push_back(static_cast<std::uint32_t>(pool_.size()));
  kinds_.push_back(kind);
  longest_bytes_ = std::max(longest_bytes_, text.size());
  return static_cast<TokenId>(kinds_.size() - 1);
}

void Vocabulary::index() {
  pool_.shrink_to_fit();
  offsets_.shrink_to_fit();
  kinds_.shrink_to_fit();
  table_.assign(std::bit_ceil(std::size_t{size()} * 2 + 1), no_token);
  for (TokenId id = 0; contains(id); ++id) {
    std::size_t slot = std::hash<std::string_view>{}(text(id)) & (table_.size() - 1);
    while (table_[slot] != no_token && text(table_[slot]) != text(id)) {
      slot = (slot + 1) & (table_.size() - 1);
    }
    if (table_[slot] == no_token) table_[slot] = id;
  }
}

TokenId Vocabulary::find(std::string_view wanted) const {
  if (wanted.size() > longest_bytes_) return no_token;
  std::size_t slot = std::hash<std::string_view>{}(wanted) & (table_.size() - 1);
  while (table_[slot] != no_token && text(table_[slot]) != wanted) {
    slot = (slot + 1) & (table_.size() - 1);
  }
  return table_[slot];
}

std::uint64_t Vocabulary::memory_bytes() const {
  return pool_.capacity() + offsets_.capacity() * sizeof(std::uint32_t) + kinds_.capacity() +
         table_.capacity() * sizeof(TokenId);
}

}  // namespace plimsoll
