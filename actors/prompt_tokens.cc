#include "actors/prompt_tokens.h"

#include <string_view>
#include <utility>

#include "storage/cache_record.h"
#include "storage/digest.h"

namespace plimsoll {
namespace {

// How a piece of text is read.
enum class Piece : std::uint8_t { prompt, from_template, from_user };

// Its length before it: no other pieces give the same text.
void add(storage::Digest& digest, Piece piece, std::string_view text) {
  std::string head;
  storage::put_number(head, static_cast<std::uint8_t>(piece));
  storage::put_number(head, static_cast<std::uint64_t>(text.size()));
  digest.add(head).add(text);
}

}  // namespace

std::size_t PromptTokens::text_bytes() const {
  if (const auto* text = std::get_if<std::string>(&request_.input)) return text->size();
  std::size_t bytes = 0;
  for (const auto& part : rendered_) bytes += part.text.size();
  return bytes;
}

std::string PromptTokens::key() const {
  storage::Digest digest;
  add(digest, Piece::prompt, model_.version());
  if (const auto* text = std::get_if<std::string>(&request_.input)) {
    add(digest, Piece::prompt, *text);
  }
  for (const auto& part : rendered_) {
    add(digest, part.from_template ? Piece::from_template : Piece::from_user, part.text);
  }
  return digest.finish();
}

Result<bool> PromptTokens::ask(std::function<void()> wake) {
  auto rendered = model_.render(request_);
  if (!rendered) return fail(std::move(rendered.error()));
  rendered_ = std::move(*rendered);
  const auto bytes = text_bytes();
  if (tier_ == nullptr || bytes < storage::TokenTier::least_text_bytes) return false;
  key_ = key();
  fetch_ = tier_->look_up(tenant_, model_.version(), key_, bytes);
  if (fetch_ == nullptr) return false;
  fetch_->start(std::move(wake));
  return true;
}

Result<std::vector<TokenId>> PromptTokens::take() {
  if (fetch_ != nullptr) {
    const auto values = fetch_->take();
    auto known = values.empty() ? std::nullopt : storage::TokenTier::tokens_in(values[0]);
    if (known) {
      if (auto valid = model_.check_prompt(request_, *known); !valid) {
        return fail(std::move(valid.error()));
      }
      return std::move(*known);
    }
  }
  auto tokens = model_.encode(request_, rendered_);
  if (tokens && !key_.empty() && !request_.no_store) tier_->offer(tenant_, key_, *tokens);
  return tokens;
}

}  // namespace plimsoll
