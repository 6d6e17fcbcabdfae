// Reads the fields of a JSON object by name, type and range. The first mistake sticks; a field
// that nobody asked for is a mistake too.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace plimsoll {

class JsonFields {
 public:
  using Json = nlohmann::json;

  // `path` goes before a field's name in errors: "" or "messages[3].".
  explicit JsonFields(Json& object, std::string path = "")
      : object_(object), path_(std::move(path)) {}

  // The field's value, or nullptr where it is absent or null.
  Json* find(std::string_view name) {
    known_.insert(name);
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  bool boolean(std::string_view name) {
    Json* value = find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) wrong(name, "must be true or false");
    return value->is_boolean() && value->get<bool>();
  }

  // Moved out; "" where absent.
  std::string text(std::string_view name) {
    Json* value = find(name);
    if (value == nullptr) return {};
    if (!value->is_string()) {
      wrong(name, "must be a string");
      return {};
    }
    return std::move(value->get_ref<std::string&>());
  }

  template <std::integral Int>
  std::optional<Int> integer(std::string_view name, std::int64_t min, std::int64_t max) {
    Json* value = find(name);
    if (value == nullptr) return {};
    if (!in_range(*value, min, max)) {
      wrong(name, "must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
      return {};
    }
    return static_cast<Int>(value->get<std::int64_t>());
  }

  // Leaves `out` alone where absent.
  void number(std::string_view name, double min, double max, float& out) {
    Json* value = find(name);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number >= min && number <= max)) {
      wrong(name, "must be a number from " + Json(min).dump() + " to " + Json(max).dump());
      return;
    }
    out = static_cast<float>(number);
  }

  // Fields that change nothing here.
  void ignore(std::initializer_list<std::string_view> names) { known_.insert(names); }

  // Fields that this server does not serve; null, and an empty list or object, ask for nothing.
  void refuse(std::initializer_list<std::string_view> names) {
    for (const auto name : names) {
      const Json* value = find(name);
      if (value != nullptr && !(value->is_structured() && value->empty())) {
        unsupported(name, "is not supported");
      }
    }
  }

  void require(std::string_view name) {
    if (find(name) == nullptr) wrong(name, "is required");
  }

  void wrong(std::string_view name, const std::string& what) {
    mistake(ErrorCode::invalid_argument, path_ + std::string(name), what);
  }
  void unsupported(std::string_view name, const std::string& what) {
    mistake(ErrorCode::unsupported, path_ + std::string(name), what);
  }

  // The first mistake, if there was one.
  Result<void> finish() {
    for (const auto& [name, value] : object_.items()) {
      if (error_) break;
      if (!known_.contains(name)) wrong(name.substr(0, 64), "is not a field of this request");
    }
    if (error_) return fail(std::move(*error_));
    return {};
  }

  static bool in_range(const Json& value, std::int64_t min, std::int64_t max) {
    if (!value.is_number_integer()) return false;
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > most) return false;
    return value.get<std::int64_t>() >= min && value.get<std::int64_t>() <= max;
  }

 private:
  void mistake(ErrorCode code, const std::string& param, const std::string& what) {
    if (!error_) error_ = Error(code, "'" + param + "' " + what).with_param(param);
  }

  Json& object_;
  std::string path_;
  std::set<std::string_view> known_;  // names are literals
  std::optional<Error> error_;
};

}  // namespace plimsoll
