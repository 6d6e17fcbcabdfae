// Tensor types of the GGUF and safetensors formats, and a view of one tensor in a mapped file.
// Block layouts follow the GGUF specification (ggml block_q4_0, block_q4_K, ...).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace plimsoll {

// Values are GGUF's ggml_type numbers.
enum class TensorType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  i64 = 27,  // safetensors position ids; carried, never computed with
  bf16 = 30,
};

struct TensorTypeInfo {
  std::string_view name;         // "Q4_K"
  std::uint32_t block_elements;  // 1, 32 or 256
  std::uint32_t block_bytes;
};
// Absent for a number that this build does not know.
std::optional<TensorTypeInfo> tensor_type_info(std::uint32_t type);
inline TensorTypeInfo info(TensorType type) {
  return *tensor_type_info(static_cast<std::uint32_t>(type));
}

// Points into a mapped file, which must outlive it. Bounds were checked when the file was opened.
struct TensorView {
  std::string name;
  TensorType type = TensorType::f32;
  // Outermost first, as in the papers: a weight is [rows, cols] with cols contiguous.
  // (GGUF stores the reverse.)
  std::array<std::uint64_t, 4> shape{};
  std::uint32_t rank = 0;
  const std::byte* data = nullptr;
  std::uint64_t bytes = 0;

  std::uint64_t cols() const { return rank == 0 ? 1 : shape[rank - 1]; }
  std::uint64_t rows() const {
    std::uint64_t n = 1;
    for (std::uint32_t i = 0; i + 1 < rank; ++i) n *= shape[i];
    return n;
  }
  std::uint64_t elements() const { return rows() * cols(); }
  std::uint64_t row_bytes() const { return rows() == 0 ? 0 : bytes / rows(); }
};

}  // namespace plimsoll
