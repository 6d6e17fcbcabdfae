// What every store refuses, so that a record that one takes the others take too (etcd's own limit
// of a request is 1.5 MiB, a third of it spent on base64).
#pragma once

#include <cstddef>
#include <string>

#include "engine/base/result.h"

namespace plimsoll::storage {

inline constexpr std::size_t max_key_bytes = 1024;
inline constexpr std::size_t max_value_bytes = 1 << 20;

// Errors: invalid_argument (key), resource_exhausted (value).
inline Result<void> check_record(const std::string& key, const std::string& value) {
  if (key.empty() || key.size() > max_key_bytes || key.find('\0') != std::string::npos) {
    return fail(ErrorCode::invalid_argument,
                "a key of the state store has 1 to " + std::to_string(max_key_bytes) +
                    " bytes, none of them zero; this one has " + std::to_string(key.size()));
  }
  if (value.size() > max_value_bytes) {
    return fail(ErrorCode::resource_exhausted,
                "the record '" + key + "' has " + std::to_string(value.size()) +
                    " bytes; the limit is " + std::to_string(max_value_bytes));
  }
  return {};
}

inline Error conflict(const std::string& key) {
  return Error(ErrorCode::failed_precondition,
               "'" + key + "' was changed by another writer; read it again")
      .with_reason("conflict");
}

}  // namespace plimsoll::storage
