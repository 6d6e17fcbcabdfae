#include "engine/models/model_folder.h"

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

namespace plimsoll {
namespace {
constexpr std::uintmax_t most_bytes = 16 << 20;
}

Result<nlohmann::json> read_json_object(const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  std::ifstream in(path, std::ios::binary);
  if (error || !in) return fail(ErrorCode::not_found, path.string() + ": cannot be read");
  if (size > most_bytes) {
    return fail(ErrorCode::malformed, path.string() + ": " + std::to_string(size) +
                                          " bytes are over the limit of 16 MiB");
  }
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return fail(ErrorCode::malformed, path.string() + ": no JSON object");
  return json;
}

}  // namespace plimsoll
