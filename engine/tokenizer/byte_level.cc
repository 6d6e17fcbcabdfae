#include "engine/tokenizer/byte_level.h"

#include <algorithm>
#include <array>
#include <bit>

#include "engine/tokenizer/merge.h"
#include "engine/tokenizer/normalize.h"
#include "engine/tokenizer/utf8.h"

namespace plimsoll {

namespace {

// GPT-2's bytes_to_unicode(): printable Latin-1 stands for itself, the other bytes for U+0100...
struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<std::int16_t, 512> byte{};  // by character, -1 if none
  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<std::int16_t>(b);
    }
  }
};
const ByteAlphabet& alphabet() {
  static const ByteAlphabet made;
  return made;
}

// (left id, right id) -> rank and id of the merged token; open addressing.
class MergeTable {
 public:
  struct Merge {
    TokenId left = no_token;
    TokenId right = no_token;
    std::uint32_t rank = 0;
    TokenId id = no_token;
  };
  explicit MergeTable(std::size_t count) : slots_(std::bit_ceil(count * 2 + 1)) {}

  void add(const Merge& merge) {
    Merge& slot = slots_[place(merge.left, merge.right)];
    if (slot.left == no_token) slot = merge;
  }
  const Merge* find(TokenId left, TokenId right) const {
    const Merge& slot = slots_[place(left, right)];
    return slot.left == no_token ? nullptr : &slot;
  }
  std::uint64_t memory_bytes() const { return slots_.capacity() * sizeof(Merge); }

 private:
  std::size_t place(TokenId left, TokenId right) const {
    const auto key = static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
                     static_cast<std::uint32_t>(right);
    std::size_t slot = (key * 0x9E3779B97F4A7C15ULL >> 20) & (slots_.size() - 1);
    while (slots_[slot].left != no_token &&
           (slots_[slot].left != left || slots_[slot].right != right)) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    return slot;
  }
  std::vector<Merge> slots_;
};

class ByteLevelTokenizer final : public BaseTokenizer {
 public:
  ByteLevelTokenizer(Vocabulary vocabulary, SpecialIds ids, const PretokenizerFamily& family,
                     MergeTable merges)
      : BaseTokenizer(std::move(vocabulary), std::move(ids)),
        whole_words_(family.whole_words),
        compose_(family.compose),
        pretokenizer_(family.patterns),
        merges_(std::move(merges)) {
    for (int b = 0; b < 256; ++b) {
      std::string character;
      append_utf8(character, alphabet().character[b]);
      byte_ids_[b] = vocabulary_.find(character);
    }
  }

  std::string token_bytes(TokenId id) const override {
    if (!vocabulary_.contains(id)) return {};
    std::string_view text = vocabulary_.text(id);
    if (vocabulary_.kind(id) != Vocabulary::Kind::normal) return std::string(text);
    std::string bytes;
    char32_t code = 0;
    while (!text.empty()) {
      const std::size_t n = decode_utf8(text, code);
      if (n == 0 || code >= 512 || alphabet().byte[code] < 0)
        return std::string(vocabulary_.text(id));
      bytes += static_cast<char>(alphabet().byte[code]);
      text.remove_prefix(n);
    }
    return bytes;
  }

  // Every pattern ends a word between what is no space and a space, or behind the space.
  std::size_t longest_word(std::string_view text) const override {
    std::size_t longest = 0, before = 0, word = 0, after = 0;  // spaces, others, spaces
    const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (is_space(text[i])) {
        ++after;
      } else {
        if (after > 0) {
          before = after;
          word = after = 0;
        }
        ++word;
      }
      longest = std::max(longest, before + word + after);
    }
    return longest;
  }

  std::uint64_t memory_bytes() const override {
    return sizeof *this + BaseTokenizer::memory_bytes() + merges_.memory_bytes() +
           pretokenizer_.memory_bytes();
  }

 private:
  void encode_text(std::string_view text, bool /*first*/,
                   std::vector<TokenId>& out) const override {
    std::string composed;
    if (compose_) text = composed = compose(text);
    Merger merger;
    pretokenizer_.split(text, [&](std::string_view word) { encode_word(word, merger, out); });
  }

  void encode_word(std::string_view word, Merger& merger, std::vector<TokenId>& out) const {
    if (whole_words_) {
      const TokenId id = find_word(word);
      if (id != no_token) {
        out.push_back(id);
        return;
      }
    }
    merger.start(word.size());
    for (std::uint32_t i = 0; i < word.size(); ++i) {
      merger.add(i, 1, byte_ids_[static_cast<unsigned char>(word[i])]);
    }
    merger.merge([&](const MergePiece& left, const MergePiece& right, std::uint32_t& priority,
                     std::int32_t& id) {
      const auto* merge = merges_.find(left.id, right.id);
      if (merge == nullptr) return false;
      priority = merge->rank;
      id = merge->id;
      return true;
    });
    // A byte that the vocabulary lacks is left out where there is no token for the unknown.
    merger.each_piece([&](const MergePiece& piece) {
      const TokenId id = piece.id != no_token ? piece.id : ids_.unknown;
      if (id != no_token) out.push_back(id);
    });
  }

  TokenId find_word(std::string_view word) const {
    if (word.size() > vocabulary_.longest_bytes()) return no_token;
    std::string token;
    for (const char c : word)
      append_utf8(token, alphabet().character[static_cast<unsigned char>(c)]);
    const TokenId id = vocabulary_.find(token);
    return id != no_token && vocabulary_.kind(id) == Vocabulary::Kind::normal ? id : no_token;
  }

  bool whole_words_;
  bool compose_;
  Pretokenizer pretokenizer_;
  MergeTable merges_;
  std::array<TokenId, 256> byte_ids_{};
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_byte_level_tokenizer(
    Vocabulary vocabulary, SpecialIds ids, const PretokenizerFamily& family,
    const std::vector<MergeParts>& merges) {
  MergeTable table(merges.size());
  std::string merged;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    merged.assign(left).append(right);
    const MergeTable::Merge merge{vocabulary.find(left), vocabulary.find(right),
                                  static_cast<std::uint32_t>(rank), vocabulary.find(merged)};
    if (merge.left == no_token || merge.right == no_token || merge.id == no_token) {
      return fail(ErrorCode::malformed, "merge " + std::to_string(rank) + " ('" +
                                            std::string(left) + "' and '" + std::string(right) +
                                            "') names a token that is not in the vocabulary");
    }
    table.add(merge);
  }
  return std::make_unique<ByteLevelTokenizer>(std::move(vocabulary), std::move(ids), family,
                                              std::move(table));
}

}  // namespace plimsoll
