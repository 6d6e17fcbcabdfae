// safetensors: a mapped, fully validated weight file.
// Specification: huggingface/safetensors README, "Format".
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/result.h"
#include "engine/formats/mapped_file.h"
#include "engine/formats/tensor.h"

namespace plimsoll {

class SafetensorsFile {
 public:
  // Maps and validates: header length (at most 100 MB), JSON, dtypes (F32, F16, BF16, I64), shapes
  // against byte ranges, no overlap, no gap, nothing beyond the end.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);
  static Result<SafetensorsFile> parse(std::span<const std::byte> bytes);

  const std::vector<TensorView>& tensors() const { return tensors_; }
  const TensorView* find_tensor(std::string_view name) const;  // null if absent
  const MappedFile& file() const { return file_; }
  // Gives up the index for the mapping, which the tensors' views then depend on.
  MappedFile take_file() && { return std::move(file_); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace plimsoll
