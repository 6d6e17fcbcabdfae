#include "storage/token_tier.h"

#include <utility>

namespace plimsoll::storage {
namespace {

constexpr std::uint64_t most_token_bytes = 5;  // of an id, seven bits a byte

CacheOwner owner_of(const TenantId& tenant) { return {tenant, "tenant:" + tenant.get()}; }

}  // namespace

TokenTier::TokenTier(std::shared_ptr<DiskCache> cache, std::shared_ptr<TierBudget> budget,
                     Ledger& ledger)
    : cache_(std::move(cache)),
      ledger_(ledger),
      reader_(cache_, {CacheKind::tokens, 0, true, "token reader"}, std::move(budget)) {}

std::unique_ptr<CacheFetch> TokenTier::look_up(const TenantId& tenant, const std::string& model,
                                               const std::string& key, std::size_t text_bytes) {
  auto owner = owner_of(tenant);
  if (cache_->chain_length(owner, CacheKind::tokens, {&key, 1}) == 0) return nullptr;
  // A token of a text stands for a byte or more; few are added.
  return reader_.fetch(std::move(owner), {key},
                       ledger_.account(Component::tokenizer, model, tenant),
                       most_token_bytes * text_bytes);
}

void TokenTier::offer(const TenantId& tenant, const std::string& key,
                      const std::vector<TokenId>& tokens) {
  std::string value;
  value.reserve(3 * tokens.size());
  for (const TokenId token : tokens) {
    auto left = static_cast<std::uint32_t>(token);
    for (; left >= 0x80; left >>= 7) value.push_back(static_cast<char>(left | 0x80));
    value.push_back(static_cast<char>(left));
  }
  cache_->put(owner_of(tenant), CacheKind::tokens, key, std::move(value));
}

std::optional<std::vector<TokenId>> TokenTier::tokens_in(std::string_view value) {
  std::vector<TokenId> tokens;
  tokens.reserve(value.size() / 2);
  std::uint64_t token = 0;
  unsigned shift = 0;
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    token |= std::uint64_t{byte & 0x7fU} << shift;
    shift += 7;
    if (shift > 7 * most_token_bytes || token > 0x7fffffff) return std::nullopt;
    if ((byte & 0x80) != 0) continue;
    tokens.push_back(static_cast<TokenId>(token));
    token = 0;
    shift = 0;
  }
  if (shift != 0 || tokens.empty()) return std::nullopt;
  return tokens;
}

}  // namespace plimsoll::storage
