#include "engine/batching/prompt_lookup.h"

#include <algorithm>
#include <cassert>

namespace plimsoll {
namespace {

constexpr double keep = 0.85;          // of a chance, when a token is seen
constexpr std::uint32_t stride = 128;  // tokens that are looked at together

// Whether `last` stands behind `before` anywhere in these tokens: written so that the compiler
// compares many at a time.
bool contains(std::span<const TokenId> tokens, TokenId before, TokenId last) {
  unsigned found = 0;
  for (std::size_t i = 1; i < tokens.size(); ++i) {
    found |= static_cast<unsigned>(tokens[i - 1] == before) & (tokens[i] == last);
  }
  return found != 0;
}

}  // namespace

PromptLookup::Match PromptLookup::longest(std::span<const TokenId> tokens) {
  const auto size = static_cast<std::uint32_t>(tokens.size());
  if (size <= least_match) return {};
  const TokenId last = tokens[size - 1], before = tokens[size - 2];
  const std::uint32_t first = size > window_tokens ? size - window_tokens + 1 : 1;
  std::uint32_t places = 0;
  Match best;
  for (std::uint32_t end = size - 1, from = 0; end > first; end = from) {
    from = end - std::min(stride, end - first);
    if (!contains(tokens.subspan(from - 1, end - from + 1), before, last)) continue;
    for (std::uint32_t i = end; i-- > from;) {
      if (tokens[i] != last || tokens[i - 1] != before) continue;
      std::uint32_t length = least_match;
      while (length < most_match && length <= i &&
             tokens[i - length] == tokens[size - 1 - length]) {
        ++length;
      }
      if (length > best.length) best = {i + 1, length};
      if (length == most_match || ++places == most_places) return best;
    }
  }
  return best;
}

void PromptLookup::look_up(std::span<const TokenId> tokens) {
  if (!found()) match_ = longest(tokens);
}

void PromptLookup::see(std::span<const TokenId> tokens) {
  if (!found()) return;
  const bool right = tokens[match_.next] == tokens.back();
  double& chance = chances_[kind()];
  chance = keep * chance + (right ? 1 - keep : 0);
  match_ = right ? Match{match_.next + 1, match_.length + 1} : Match{};
}

std::span<const TokenId> PromptLookup::draft(std::span<const TokenId> tokens, std::uint32_t count) {
  assert(found() && count <= most_drafts);
  draft_[0] = tokens.back();
  for (std::uint32_t i = 0; i < count; ++i) {
    // What would follow the end is what followed before: a text that goes round in circles.
    const std::size_t from = match_.next + i;
    draft_[1 + i] = from < tokens.size() ? tokens[from] : draft_[1 + from - tokens.size()];
  }
  return std::span(draft_).first(1 + count);
}

}  // namespace plimsoll
