// The JSON files of a folder in the Hugging Face layout.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/base/result.h"

namespace plimsoll {

// An object. Errors: not_found, malformed (no JSON object, or over 16 MiB).
Result<nlohmann::json> read_json_object(const std::filesystem::path& path);

}  // namespace plimsoll
