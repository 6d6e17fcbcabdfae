// Reads a model's hyper-parameters from GGUF metadata or a config.json, within limits.
//
// The first error is kept and reading goes on with a harmless value, so that a family's reader is
// a plain list; the reader's caller checks error() once, before it uses anything.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/result.h"
#include "engine/formats/gguf.h"

namespace plimsoll {

class HyperParameters {
 public:
  // Keys are looked up as "<architecture>.<key>". The file must outlive this.
  HyperParameters(const GgufFile& file, const std::string& architecture);
  // The config must outlive this; `where` names it in errors.
  HyperParameters(const nlohmann::json& config, std::string where);

  // An integer from 1 to `most`. Without a fallback, an absent key is an error.
  std::uint32_t count(std::string_view key, std::uint64_t most,
                      std::optional<std::uint32_t> fallback = {});
  // A finite number, `least` <= value <= `most`.
  float number(std::string_view key, double least, double most, std::optional<float> fallback = {});
  // Absent if missing or no string.
  std::optional<std::string> text(std::string_view key) const { return text_(key); }

  // Records an error of the caller's own, which names the file.
  void reject(ErrorCode code, const std::string& message);
  const std::optional<Error>& error() const { return error_; }

 private:
  std::string where_;
  std::function<bool(std::string_view)> has_;
  std::function<std::optional<std::uint64_t>(std::string_view)> integer_;
  std::function<std::optional<double>(std::string_view)> number_;
  std::function<std::optional<std::string>(std::string_view)> text_;
  std::optional<Error> error_;
};

}  // namespace plimsoll
