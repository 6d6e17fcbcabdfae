#include "actors/gateway/bounded_json.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace plimsoll {
namespace {

using Json = nlohmann::json;

constexpr std::size_t max_depth = 64;
constexpr std::uint64_t max_values = 1 << 20;
// A vector that grows holds its values once, and the new one twice as many; a map has nodes.
constexpr std::uint64_t item_bytes = 3 * sizeof(Json);
constexpr std::uint64_t member_bytes = 48 + sizeof(std::string) + sizeof(Json);
constexpr std::uint64_t container_bytes = 64;
constexpr std::uint64_t string_bytes = 32;
// The budget is asked in steps.
constexpr std::uint64_t step_bytes = 16 * 1024;

// Takes the parser's events, the names of which are nlohmann-json's.
class Builder {
 public:
  Builder(std::size_t body_bytes, const HoldBytes& hold)
      : hold_(hold), bytes_(2 * body_bytes), held_(json_text_copies * body_bytes) {}

  bool null() { return put(nullptr, 0); }
  bool boolean(bool value) { return put(value, 0); }
  bool number_integer(Json::number_integer_t value) { return put(value, 0); }
  bool number_unsigned(Json::number_unsigned_t value) { return put(value, 0); }
  bool number_float(Json::number_float_t value, const std::string&) { return put(value, 0); }
  bool string(std::string& value) {
    const auto bytes = string_bytes + value.capacity();
    return put(std::move(value), bytes);
  }
  bool binary(Json::binary_t&) { return false; }  // not of JSON
  bool start_object(std::size_t) { return open(Json::value_t::object); }
  bool start_array(std::size_t) { return open(Json::value_t::array); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (!grow(member_bytes + name.capacity())) return false;
    member_ = &(*open_.back())[std::move(name)];
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    // Its own text may quote megabytes of the body.
    error_ =
        Error(ErrorCode::invalid_argument,
              dynamic_cast<const Json::parse_error*>(&error) != nullptr
                  ? "the body is not valid JSON in UTF-8: error at byte " + std::to_string(position)
                  : "the body holds a number that is out of range");
    return false;
  }

  Result<Json> take() {
    if (error_) return fail(std::move(*error_));
    return std::move(root_);
  }

 private:
  bool refuse(std::string why) {
    error_ = Error(ErrorCode::invalid_argument, std::move(why));
    return false;
  }

  bool grow(std::uint64_t bytes) {
    bytes_ += bytes;
    if (bytes_ <= held_) return true;
    held_ = bytes_ + step_bytes;
    return !hold_ || hold_(held_) || refuse("the body takes too much memory to parse");
  }

  Json* place(Json value, std::uint64_t bytes) {
    if (++values_ > max_values) {
      refuse("the body holds more than " + std::to_string(max_values) + " JSON values");
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_object()) {
      if (!grow(bytes)) return nullptr;
      *member_ = std::move(value);
      return member_;
    }
    if (!grow(bytes + item_bytes)) return nullptr;
    auto& items = open_.back()->get_ref<Json::array_t&>();
    items.push_back(std::move(value));
    return &items.back();
  }

  template <class Value>
  bool put(Value&& value, std::uint64_t bytes) {
    return place(Json(std::forward<Value>(value)), bytes) != nullptr;
  }

  bool open(Json::value_t kind) {
    if (open_.size() >= max_depth) {
      return refuse("the body nests deeper than " + std::to_string(max_depth) + " levels");
    }
    Json* container = place(Json(kind), container_bytes);
    if (container == nullptr) return false;
    open_.push_back(container);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  const HoldBytes& hold_;
  std::uint64_t bytes_, held_, values_ = 0;
  Json root_;
  std::vector<Json*> open_;  // an array does not grow while one of its items is open
  Json* member_ = nullptr;   // that the next value is of
  std::optional<Error> error_;
};

}  // namespace

Result<Json> parse_bounded_json(std::string_view body, const HoldBytes& hold) {
  Builder builder(body.size(), hold);
  if (hold && !hold(json_text_copies * body.size())) {
    return fail(ErrorCode::invalid_argument, "the body takes too much memory to parse");
  }
  Json::sax_parse(body.begin(), body.end(), &builder);
  return builder.take();
}

}  // namespace plimsoll
