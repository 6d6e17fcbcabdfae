// The tokens of one request's prompt: read from the cache on disk where the text is long and was
// tokenized before, else made.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/text_model.h"
#include "storage/token_tier.h"

namespace plimsoll {

class PromptTokens {
 public:
  // `tier` may be null: then all is made. Model, tier and request outlive this.
  PromptTokens(const TextModel& model, storage::TokenTier* tier, const TenantId& tenant,
               const GenerateRequest& request)
      : model_(model), tier_(tier), tenant_(tenant), request_(request) {}

  // Whether the tokens have been asked for: `wake` is called on another thread when they have come.
  // Errors: those of TextModel::encode().
  Result<bool> ask(std::function<void()> wake);
  // After ask(), once: the tokens that have come, or the text's own. Errors: the same.
  Result<std::vector<TokenId>> take();

 private:
  std::size_t text_bytes() const;
  std::string key() const;

  const TextModel& model_;
  storage::TokenTier* const tier_;
  const TenantId& tenant_;
  const GenerateRequest& request_;
  std::vector<RenderedPart> rendered_;
  std::string key_;  // of a long text; else empty
  std::unique_ptr<storage::CacheFetch> fetch_;
};

}  // namespace plimsoll
