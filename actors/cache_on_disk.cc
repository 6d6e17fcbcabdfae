#include "actors/cache_on_disk.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "actors/cache_keys.h"

namespace plimsoll {

Result<CacheOnDisk> open_cache_on_disk(const CacheSettings& settings, Ledger& ledger) {
  const auto part = settings.memory_bytes / 16;
  storage::DiskCacheOptions options;
  options.directory = settings.directory;
  options.bytes = settings.bytes;
  options.tenant_bytes = settings.tenant_bytes;
  options.ttl.fill(settings.ttl);
  options.buffer_bytes = 4 * part;
  options.index_bytes = 4 * part;
  options.table_bytes = part;
  options.on_trouble = [](const std::string& trouble) {
    spdlog::warn("event=cache_trouble {}", trouble);
  };
  if (!settings.key_file.empty()) {
    auto keys = CacheKeys::read(settings.key_file);
    if (!keys) {
      keys.error().message = "cache.key_file: " + keys.error().message;
      return fail(std::move(keys.error()));
    }
    options.derive_key = [keys = std::move(*keys)](const TenantId& tenant) {
      return keys.of(tenant);
    };
  }
  auto opened = storage::open_disk_cache(std::move(options), ledger);
  if (!opened) {
    opened.error().message = "cache.directory: " + opened.error().message;
    return fail(std::move(opened.error()));
  }
  return CacheOnDisk{std::move(*opened), std::make_shared<storage::TierBudget>(2 * part, 5 * part)};
}

}  // namespace plimsoll
