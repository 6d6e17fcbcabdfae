// GGUF v2 and v3: a mapped, fully validated model file.
// Specification: ggml-org/ggml docs/gguf.md. Little-endian only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/base/result.h"
#include "engine/formats/mapped_file.h"
#include "engine/formats/tensor.h"

namespace plimsoll {

// One metadata value. Integers of every width are widened; strings point into the mapping.
struct GgufArray;
using GgufValue =
    std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, GgufArray>;
struct GgufArray {
  // The one alternative that is filled tells the element type.
  std::variant<std::vector<std::string_view>, std::vector<std::int64_t>, std::vector<double>>
      values;
};

class GgufFile {
 public:
  // Maps and validates: magic, version, counts, string and array lengths, types, alignment,
  // tensor bounds and overlaps, duplicate names. Errors carry the byte offset (malformed) or say
  // what is not handled (unsupported).
  static Result<GgufFile> open(const std::filesystem::path& path);
  // The same over bytes in memory, which must outlive the result. For tests and fuzzing.
  static Result<GgufFile> parse(std::span<const std::byte> bytes);

  std::uint32_t version() const { return version_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const MappedFile& file() const { return file_; }
  // Gives up the index for the mapping, which the tensors' views then depend on.
  MappedFile take_file() && { return std::move(file_); }

  const TensorView* find_tensor(std::string_view name) const;  // null if absent

  // Typed look-ups: absent if missing or of another type.
  std::optional<std::string_view> string(std::string_view key) const;
  std::optional<std::uint64_t> uint(std::string_view key) const;  // any non-negative integer
  std::optional<double> number(std::string_view key) const;       // any number
  std::optional<bool> boolean(std::string_view key) const;
  std::span<const std::string_view> strings(std::string_view key) const;  // empty if absent
  std::span<const std::int64_t> ints(std::string_view key) const;         // bools count as ints
  std::span<const double> numbers(std::string_view key) const;

  // Heap bytes held by the index (not the mapping), for the ledger.
  std::uint64_t heap_bytes() const;

 private:
  MappedFile file_;
  std::uint32_t version_ = 0;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace plimsoll
