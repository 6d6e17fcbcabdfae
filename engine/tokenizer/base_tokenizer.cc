#include "engine/tokenizer/base_tokenizer.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace plimsoll {

namespace {

constexpr std::uint64_t max_text_bytes = 64_MiB;

constexpr std::string_view end_names[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>",
    "<eos>",      "</s>",       "<|end|>",    "<|endoftext|>",   "<|eot|>",
    "<EOT>",      "[EOT]",      "[EOS]",      "<|return|>",      "<|END_OF_TURN_TOKEN|>"};

// The parts as one well-formed text, and where in it special tokens may be read.
struct Joined {
  struct Stretch {
    std::size_t begin;
    std::size_t end;
  };
  std::string storage;  // empty where the caller's own bytes serve
  std::string_view text;
  std::vector<Stretch> trusted;

  explicit Joined(std::span<const TextPart> parts) {
    if (parts.size() == 1 && is_valid_utf8(parts[0].text)) {
      text = parts[0].text;
      if (parts[0].parse_special) trusted.push_back({0, text.size()});
      return;
    }
    for (const auto& part : parts) {
      const std::size_t begin = storage.size();
      if (is_valid_utf8(part.text)) {
        storage += part.text;
      } else {
        storage += replace_ill_formed(part.text);
      }
      if (!part.parse_special) continue;
      if (!trusted.empty() && trusted.back().end == begin) {
        trusted.back().end = storage.size();
      } else {
        trusted.push_back({begin, storage.size()});
      }
    }
    text = storage;
  }
};

}  // namespace

void SpecialIds::add_end(TokenId id) {
  auto& ends = end_of_generation;
  if (id != no_token && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
}

void SpecialIds::add_well_known_ends(const Vocabulary& vocabulary) {
  for (const auto name : end_names) {
    const TokenId id = vocabulary.find(name);
    if (id != no_token && vocabulary.kind(id) == Vocabulary::Kind::special) add_end(id);
  }
}

BaseTokenizer::BaseTokenizer(Vocabulary vocabulary, SpecialIds ids)
    : vocabulary_(std::move(vocabulary)), ids_(std::move(ids)) {
  for (TokenId id = 0; vocabulary_.contains(id); ++id) {
    const auto kind = vocabulary_.kind(id);
    if (kind != Vocabulary::Kind::special && kind != Vocabulary::Kind::user_defined) continue;
    // A broken string could only be found inside a character, which it would tear apart.
    if (!is_valid_utf8(vocabulary_.text(id))) continue;
    (kind == Vocabulary::Kind::special ? special_ : user_defined_).add(vocabulary_.text(id), id);
  }
}

Result<std::vector<TokenId>> BaseTokenizer::encode(std::string_view text,
                                                   EncodeOptions options) const {
  const TextPart part{text, options.parse_special};
  return encode_parts({&part, 1}, options.add_special);
}

Result<std::vector<TokenId>> BaseTokenizer::encode_parts(std::span<const TextPart> parts,
                                                         bool add_special) const {
  std::uint64_t total = 0;
  for (const auto& part : parts) total += part.text.size();
  if (total > max_text_bytes) {
    return fail(ErrorCode::invalid_argument, "a text of " + std::to_string(total) +
                                                 " bytes is over the limit of " +
                                                 std::to_string(max_text_bytes));
  }
  const Joined joined(parts);
  const std::string_view text = joined.text;
  std::vector<TokenId> out;
  out.reserve(text.size() / 3 + 2);
  if (add_special && ids_.add_bos && ids_.bos != no_token) out.push_back(ids_.bos);
  // Special tokens go first, so that no user's text before one can take a part of it away.
  std::size_t begin = 0;
  for (const auto& stretch : joined.trusted) {
    for (std::size_t i = stretch.begin; i < stretch.end;) {
      const auto match = special_.longest(text.substr(i, stretch.end - i));
      if (match.id == no_token) {
        ++i;
        continue;
      }
      encode_plain(text.substr(begin, i - begin), out);
      out.push_back(match.id);
      i += match.length;
      begin = i;
    }
  }
  encode_plain(text.substr(begin), out);
  if (add_special && ids_.add_eos && ids_.eos != no_token) out.push_back(ids_.eos);
  return out;
}

void BaseTokenizer::encode_plain(std::string_view text, std::vector<TokenId>& out) const {
  if (text.empty()) return;
  std::size_t begin = 0;
  bool first = true;
  const auto flush = [&](std::size_t end) {
    if (first || end > begin) encode_text(text.substr(begin, end - begin), first, out);
    first = false;
  };
  if (!user_defined_.empty()) {
    for (std::size_t i = 0; i < text.size();) {
      const auto match = user_defined_.longest(text.substr(i));
      if (match.id == no_token) {
        ++i;
        continue;
      }
      flush(i);
      out.push_back(match.id);
      i += match.length;
      begin = i;
    }
  }
  flush(text.size());
}

bool BaseTokenizer::is_special(TokenId id) const {
  return vocabulary_.contains(id) && vocabulary_.kind(id) == Vocabulary::Kind::special;
}

bool BaseTokenizer::is_end_of_generation(TokenId id) const {
  return std::find(ids_.end_of_generation.begin(), ids_.end_of_generation.end(), id) !=
         ids_.end_of_generation.end();
}

std::uint64_t BaseTokenizer::memory_bytes() const {
  return vocabulary_.memory_bytes() + special_.memory_bytes() + user_defined_.memory_bytes() +
         ids_.end_of_generation.capacity() * sizeof(TokenId);
}

std::string BaseTokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  Detokenizer stream(*this, skip_special);
  std::string text;
  for (const TokenId id : ids) text += stream.push(id);
  return text + stream.finish();
}

}  // namespace plimsoll
