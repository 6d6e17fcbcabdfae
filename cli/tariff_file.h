// The prices of a tariff file: YAML, checked with line numbers as the configuration is.
#pragma once

#include <filesystem>

#include "cluster/tariff.h"
#include "engine/base/result.h"

namespace plimsoll::cli {

// Errors: invalid_argument, with the file, the line and the key.
Result<cluster::Tariff> load_tariff(const std::filesystem::path& file);

}  // namespace plimsoll::cli
