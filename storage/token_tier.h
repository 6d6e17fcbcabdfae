// The cache on disk for the tokens of long texts, under a key that all hangs on that they hang on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/types.h"
#include "engine/memory/ledger.h"
#include "storage/cache_reader.h"
#include "storage/disk_cache.h"
#include "storage/tier_budget.h"

namespace plimsoll::storage {

// Of all models of a process. Thread-safe; nothing here waits for the disk.
class TokenTier {
 public:
  // The ledger outlives the tier.
  TokenTier(std::shared_ptr<DiskCache> cache, std::shared_ptr<TierBudget> budget, Ledger& ledger);

  // From so many bytes on a text is kept: tokenizing it takes several times as long as reading.
  static constexpr std::size_t least_text_bytes = 16 << 10;

  // What is read is charged to `tokenizer`, of the model and tenant. Null: it is not there.
  std::unique_ptr<CacheFetch> look_up(const TenantId& tenant, const std::string& model,
                                      const std::string& key, std::size_t text_bytes);
  // Takes a copy, or drops it where it has no room at present.
  void offer(const TenantId& tenant, const std::string& key, const std::vector<TokenId>& tokens);

  // Of what a fetch gave.
  static std::optional<std::vector<TokenId>> tokens_in(std::string_view value);

 private:
  const std::shared_ptr<DiskCache> cache_;
  Ledger& ledger_;
  CacheReader reader_;
};

}  // namespace plimsoll::storage
