// Exact expansion of every supported weight type to float32: the reference that all kernels are
// compared with. Formulas: GGUF block definitions (ggml-quants).
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/formats/tensor.h"

namespace plimsoll {

// Expands `elements` consecutive elements (a multiple of the type's block) from src to dst.
// src need not be aligned. i64 is a programming error.
void dequantize(TensorType type, const std::byte* src, float* dst, std::size_t elements);

// Row r of a matrix view: dst has view.cols() floats.
void dequantize_row(const TensorView& view, std::uint64_t row, float* dst);

float half_to_float(std::uint16_t half);
// Both to nearest even; what is not a number stays that.
std::uint16_t float_to_half(float value);
std::uint16_t float_to_bf16(float value);

}  // namespace plimsoll
