// The limits of a tenant's quota (cli/quota_limits.h) as flags and as a document.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "cli/show.h"

namespace plimsoll::cli {

Json to_json(const client::Quota& quota);

// Values that were given, by name, checked.
using QuotaFlags = std::map<std::string, std::string>;
void add_quota_options(CLI::App& verb, QuotaFlags& flags);
void set_limits(const QuotaFlags& flags, client::Quota& quota);

}  // namespace plimsoll::cli
