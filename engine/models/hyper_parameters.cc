#include "engine/models/hyper_parameters.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace plimsoll {

HyperParameters::HyperParameters(const GgufFile& file, const std::string& architecture)
    : where_(file.file().path().string()) {
  const auto full = [architecture](std::string_view key) {
    return architecture + "." + std::string(key);
  };
  has_ = [&file, full](std::string_view key) { return file.metadata().contains(full(key)); };
  integer_ = [&file, full](std::string_view key) { return file.uint(full(key)); };
  number_ = [&file, full](std::string_view key) { return file.number(full(key)); };
  text_ = [&file, full](std::string_view key) -> std::optional<std::string> {
    const auto value = file.string(full(key));
    return value ? std::optional<std::string>(*value) : std::nullopt;
  };
}

HyperParameters::HyperParameters(const nlohmann::json& config, std::string where)
    : where_(std::move(where)) {
  const auto find = [&config](std::string_view key) -> const nlohmann::json* {
    const auto it = config.find(key);
    return it == config.end() || it->is_null() ? nullptr : &*it;
  };
  has_ = [find](std::string_view key) { return find(key) != nullptr; };
  integer_ = [find](std::string_view key) -> std::optional<std::uint64_t> {
    const auto* value = find(key);
    if (value == nullptr || !value->is_number_unsigned()) return std::nullopt;
    return value->get<std::uint64_t>();
  };
  number_ = [find](std::string_view key) -> std::optional<double> {
    const auto* value = find(key);
    if (value == nullptr || !value->is_number()) return std::nullopt;
    return value->get<double>();
  };
  text_ = [find](std::string_view key) -> std::optional<std::string> {
    const auto* value = find(key);
    if (value == nullptr || !value->is_string()) return std::nullopt;
    return value->get<std::string>();
  };
}

std::uint32_t HyperParameters::count(std::string_view key, std::uint64_t most,
                                     std::optional<std::uint32_t> fallback) {
  if (fallback && !has_(key)) return *fallback;
  const auto value = integer_(key);
  if (value && *value >= 1 && *value <= most) return static_cast<std::uint32_t>(*value);
  const std::string expected = "expected an integer from 1 to " + std::to_string(most);
  reject(ErrorCode::malformed,
         "hyper-parameter '" + std::string(key) + "' is " +
             (value ? std::to_string(*value) : std::string(has_(key) ? "no integer" : "missing")) +
             "; " + expected);
  return 1;
}

float HyperParameters::number(std::string_view key, double least, double most,
                              std::optional<float> fallback) {
  if (fallback && !has_(key)) return *fallback;
  const auto value = number_(key);
  if (value && *value >= least && *value <= most) return static_cast<float>(*value);
  reject(ErrorCode::malformed,
         "hyper-parameter '" + std::string(key) + "' is " +
             (value ? std::to_string(*value) : std::string(has_(key) ? "no number" : "missing")) +
             "; expected a number from " + std::to_string(least) + " to " + std::to_string(most));
  return 1.0F;
}

void HyperParameters::reject(ErrorCode code, const std::string& message) {
  if (!error_) error_ = Error(code, (where_.empty() ? "model" : where_) + ": " + message);
}

}  // namespace plimsoll
