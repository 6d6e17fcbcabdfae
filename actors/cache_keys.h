// The keys under which the cache on disk is encrypted: each tenant's own, derived from the node's.
#pragma once

#include <filesystem>
#include <string>

#include "engine/base/result.h"
#include "engine/base/types.h"

namespace plimsoll {

class CacheKeys {
 public:
  // A file with 32 bytes, as 64 hexadecimal digits or in base64. Errors: not_found,
  // permission_denied (others may read it), invalid_argument (it is no such key).
  static Result<CacheKeys> read(const std::filesystem::path& file);
  // 32 bytes: HKDF-SHA256 (RFC 5869) without salt, its info "plimsoll cache tenant NAME".
  std::string of(const TenantId& tenant) const;

 private:
  explicit CacheKeys(std::string key) : key_(std::move(key)) {}
  std::string key_;
};

}  // namespace plimsoll
