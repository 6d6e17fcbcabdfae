// The limits of a tenant's quota as flags, as lines and as fields of a document: one table.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cli/show.h"
#include "engine/base/result.h"

namespace plimsoll::cli {

struct QuotaLimit {
  std::string name;  // "kv-memory"; its flag is --kv-memory
  std::string help;
  std::string unit;   // of the flag's value: "SIZE"
  std::string field;  // in documents, with the unit: "kv_bytes"
  std::function<std::string(const client::Quota&)> text;
  std::function<Json(const client::Quota&)> value;
  std::function<Result<void>(client::Quota&, const std::string&)> set;
};
const std::vector<QuotaLimit>& quota_limits();

Json to_json(const client::Quota& quota);

// Values that were given, by name, checked.
using QuotaFlags = std::map<std::string, std::string>;
void add_quota_options(CLI::App& verb, QuotaFlags& flags);
void set_limits(const QuotaFlags& flags, client::Quota& quota);

}  // namespace plimsoll::cli
