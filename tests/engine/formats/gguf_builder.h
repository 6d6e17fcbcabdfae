// Writes GGUF files into memory, right or wrong ones.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

class GgufBuilder {
 public:
  explicit GgufBuilder(std::uint32_t version = 3, std::uint64_t tensors = 0,
                       std::uint64_t metadata = 0) {
    raw("GGUF");
    number(version);
    number(tensors);
    number(metadata);
  }
  template <class T>
  GgufBuilder& number(T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof value);
    return *this;
  }
  GgufBuilder& raw(std::string_view text) {
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), bytes, bytes + text.size());
    return *this;
  }
  GgufBuilder& string(std::string_view text) {
    return number(std::uint64_t{text.size()}).raw(text);
  }
  GgufBuilder& text_value(std::string_view key, std::string_view value) {
    return string(key).number(std::uint32_t{8}).string(value);
  }
  GgufBuilder& uint_value(std::string_view key, std::uint32_t value) {
    return string(key).number(std::uint32_t{4}).number(value);
  }
  // Dimensions as the file has them: the contiguous one first.
  GgufBuilder& tensor(std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type,
                      std::uint64_t offset) {
    string(name).number(static_cast<std::uint32_t>(dims.size()));
    for (const auto dim : dims) number(dim);
    return number(type).number(offset);
  }
  GgufBuilder& pad(std::size_t alignment = 32) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    return *this;
  }
  GgufBuilder& data(std::size_t bytes) {
    bytes_.resize(bytes_.size() + bytes, std::byte{1});
    return *this;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace plimsoll
