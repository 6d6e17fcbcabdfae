#include "engine/tokenizer/token_trie.h"

namespace plimsoll {

void TokenTrie::add(std::string_view token, TokenId id) {
  if (token.empty()) return;
  if (nodes_.empty()) nodes_.resize(256);
  std::uint32_t at = static_cast<unsigned char>(token[0]);
  for (const char c : token.substr(1)) {
    const auto byte = static_cast<unsigned char>(c);
    std::uint32_t child = nodes_[at].child;
    while (child != 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
    if (child == 0) {
      child = static_cast<std::uint32_t>(nodes_.size());
      nodes_.push_back({no_token, 0, nodes_[at].child, byte});
      nodes_[at].child = child;
    }
    at = child;
  }
  if (nodes_[at].id == no_token) nodes_[at].id = id;
}

TokenTrie::Match TokenTrie::longest(std::string_view text) const {
  if (nodes_.empty() || text.empty()) return {};
  Match best;
  std::uint32_t at = static_cast<unsigned char>(text[0]);
  for (std::size_t length = 1;; ++length) {
    if (nodes_[at].id != no_token) best = {nodes_[at].id, length};
    if (length == text.size()) return best;
    const auto byte = static_cast<unsigned char>(text[length]);
    at = nodes_[at].child;
    while (at != 0 && nodes_[at].byte != byte) at = nodes_[at].sibling;
    if (at == 0) return best;
  }
}

}  // namespace plimsoll
