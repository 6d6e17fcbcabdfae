#include "engine/tokenizer/sentencepiece.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "engine/tokenizer/merge.h"
#include "engine/tokenizer/utf8.h"

namespace plimsoll {

namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";
constexpr char32_t space_mark_code = 0x2581;

// Which two characters stand side by side in some token. Where two in a text do not, no merge can
// join them, and what is left and right of that place is merged on its own. Hashed: what was not
// added may be reported, never the other way round.
class AdjacentPairs {
 public:
  void add(char32_t left, char32_t right) { bits_[place(left, right)] = true; }
  bool may_contain(char32_t left, char32_t right) const { return bits_[place(left, right)]; }
  std::uint64_t memory_bytes() const { return bits_.capacity() / 8; }

 private:
  static constexpr int bits = 21;
  static std::size_t place(char32_t left, char32_t right) {
    const auto key = std::uint64_t{left} << 32 | right;
    return key * 0x9E3779B97F4A7C15ULL >> (64 - bits);
  }
  std::vector<bool> bits_ = std::vector<bool>(std::size_t{1} << bits);
};

// Each token's place in the order of merging: the best score first, equal scores alike.
std::vector<std::uint32_t> priorities_of(std::span<const double> scores) {
  std::vector<std::uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto by_score = [&](std::uint32_t a, std::uint32_t b) { return scores[a] > scores[b]; };
  if (!std::ranges::is_sorted(order, by_score)) std::ranges::stable_sort(order, by_score);
  std::vector<std::uint32_t> priorities(scores.size());
  for (std::size_t i = 1; i < order.size(); ++i) {
    priorities[order[i]] =
        priorities[order[i - 1]] + (scores[order[i]] != scores[order[i - 1]] ? 1 : 0);
  }
  return priorities;
}

class SentencePieceTokenizer final : public BaseTokenizer {
 public:
  SentencePieceTokenizer(Vocabulary vocabulary, SpecialIds ids,
                         std::vector<std::uint32_t> priorities, bool add_space_prefix)
      : BaseTokenizer(std::move(vocabulary), std::move(ids)),
        priorities_(std::move(priorities)),
        add_space_prefix_(add_space_prefix) {
    for (unsigned b = 0; b < 256; ++b) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", b);
      byte_ids_[b] = vocabulary_.find(name);
    }
    for (TokenId id = 0; vocabulary_.contains(id); ++id) {
      if (!may_merge_into(id)) continue;
      std::string_view text = vocabulary_.text(id);
      char32_t previous = 0;
      char32_t code = 0;
      for (bool first = true; !text.empty(); first = false) {
        const std::size_t n = decode_utf8(text, code);
        if (n == 0) break;  // a broken token is never found in a text
        if (!first) pairs_.add(previous, code);
        previous = code;
        text.remove_prefix(n);
      }
    }
  }

  std::string token_bytes(TokenId id) const override {
    if (!vocabulary_.contains(id)) return {};
    const std::string_view text = vocabulary_.text(id);
    if (vocabulary_.kind(id) == Vocabulary::Kind::special) return std::string(text);
    if (text.size() == 6 && text.starts_with("<0x")) {
      unsigned byte = 0;
      std::from_chars(text.data() + 3, text.data() + 5, byte, 16);
      if (byte_ids_[byte] == id) return std::string(1, static_cast<char>(byte));
    }
    std::string bytes;
    for (std::size_t i = 0; i < text.size();) {
      if (text.substr(i).starts_with(space_mark)) {
        bytes += ' ';
        i += space_mark.size();
      } else {
        bytes += text[i++];
      }
    }
    return bytes;
  }

  std::string decode(std::span<const TokenId> ids, bool skip_special) const override {
    std::string text = BaseTokenizer::decode(ids, skip_special);
    if (add_space_prefix_ && text.starts_with(' ')) text.erase(0, 1);
    return text;
  }

  std::size_t longest_word(std::string_view text) const override {
    std::size_t longest = 0, length = space_mark.size();
    char32_t previous = space_mark_code;
    while (!text.empty()) {
      char32_t code = 0;
      const std::size_t n = decode_utf8(text, code);
      if (n == 0) return std::max(longest, length + space_mark.size() * text.size());  // ill-formed
      if (code == ' ') code = space_mark_code;
      if (!pairs_.may_contain(previous, code)) length = 0;
      length += code == space_mark_code ? space_mark.size() : n;
      longest = std::max(longest, length);
      previous = code;
      text.remove_prefix(n);
    }
    return longest;
  }

  std::uint64_t memory_bytes() const override {
    return sizeof *this + BaseTokenizer::memory_bytes() +
           priorities_.capacity() * sizeof(std::uint32_t) + pairs_.memory_bytes();
  }

 private:
  bool may_merge_into(TokenId id) const {
    const auto kind = vocabulary_.kind(id);
    return kind == Vocabulary::Kind::normal || kind == Vocabulary::Kind::user_defined;
  }

  // Stretches that merge on their own, with spaces marked.
  void encode_text(std::string_view text, bool first, std::vector<TokenId>& out) const override {
    Merger merger;
    std::string stretch;
    char32_t previous = 0;
    const auto next = [&](char32_t code, std::string_view bytes) {
      if (!stretch.empty() && !pairs_.may_contain(previous, code)) {
        encode_stretch(stretch, merger, out);
        stretch.clear();
      }
      stretch += bytes;
      previous = code;
    };
    if (add_space_prefix_ && first) next(space_mark_code, space_mark);
    char32_t code = 0;
    while (!text.empty()) {
      const std::size_t n = decode_utf8(text, code);
      if (code == ' ') {
        next(space_mark_code, space_mark);
      } else {
        next(code, text.substr(0, n));
      }
      text.remove_prefix(n);
    }
    encode_stretch(stretch, merger, out);
  }

  void encode_stretch(std::string_view text, Merger& merger, std::vector<TokenId>& out) const {
    merger.start(text.size());
    char32_t code = 0;
    for (std::uint32_t i = 0; i < text.size();) {
      const auto length = static_cast<std::uint32_t>(decode_utf8(text.substr(i), code));
      merger.add(i, length, no_token);
      i += length;
    }
    merger.merge([&](const MergePiece& left, const MergePiece& right, std::uint32_t& priority,
                     std::int32_t& id) {
      id = vocabulary_.find(text.substr(left.begin, left.length + right.length));
      if (id == no_token || !may_merge_into(id)) return false;
      priority = priorities_[id];
      return true;
    });
    merger.each_piece([&](const MergePiece& piece) {
      const auto bytes = text.substr(piece.begin, piece.length);
      const TokenId id = piece.id != no_token ? piece.id : vocabulary_.find(bytes);
      if (id != no_token && may_merge_into(id)) {
        out.push_back(id);
      } else {
        append_bytes(bytes, out);
      }
    });
  }

  void append_bytes(std::string_view character, std::vector<TokenId>& out) const {
    for (const char c : character) {
      const TokenId id = byte_ids_[static_cast<unsigned char>(c)];
      if (id != no_token) {
        out.push_back(id);
      } else if (ids_.unknown != no_token) {
        out.push_back(ids_.unknown);
        return;  // one unknown for the whole character
      }
    }
  }

  std::vector<std::uint32_t> priorities_;
  AdjacentPairs pairs_;
  bool add_space_prefix_;
  std::array<TokenId, 256> byte_ids_{};
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_sentencepiece_tokenizer(Vocabulary vocabulary,
                                                                SpecialIds ids,
                                                                std::span<const double> scores,
                                                                bool add_space_prefix) {
  if (scores.size() != vocabulary.size()) {
    return fail(ErrorCode::malformed, "tokenizer.ggml.scores has " + std::to_string(scores.size()) +
                                          " entries for " + std::to_string(vocabulary.size()) +
                                          " tokens");
  }
  if (std::ranges::any_of(scores, [](double score) { return std::isnan(score); })) {
    return fail(ErrorCode::malformed, "tokenizer.ggml.scores holds a NaN");
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(vocabulary), std::move(ids),
                                                  priorities_of(scores), add_space_prefix);
}

}  // namespace plimsoll
