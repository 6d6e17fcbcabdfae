// The limits of a tenant's quota: one table for flags, the configuration's entries, what people
// read and fields of documents.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll::cli {

// `Quota` is cluster::Quota (the configuration's) or client::Quota (an operator's).
template <class Quota>
struct QuotaLimit {
  std::string name;  // "kv-memory"; its flag is --kv-memory, its key in the file kv_memory
  std::string help;
  std::string unit;   // of the value as it is written: "SIZE"
  std::string field;  // in documents, with the unit: "kv_bytes"
  std::function<std::string(const Quota&)> text;
  std::function<nlohmann::ordered_json(const Quota&)> value;
  // Takes what `text` gives back. Errors: invalid_argument, saying what is expected.
  std::function<Result<void>(Quota&, const std::string&)> set;
  std::string key() const;  // "kv_memory"
};
template <class Quota>
const std::vector<QuotaLimit<Quota>>& quota_limits();

}  // namespace plimsoll::cli
