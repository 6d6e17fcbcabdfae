// The two paths of matmul(). Internal; see matmul.h for the shapes.
#pragma once

#include "engine/kernels/cpu/matmul.h"

namespace plimsoll {

void matmul_float(const TensorView& w, const float* x, std::size_t ldx, std::size_t tokens,
                  float* y, std::size_t ldy, ThreadPool& pool);
void matmul_int8(const PackedMatrix& w, const QuantizedActivations& x, std::size_t tokens, float* y,
                 std::size_t ldy, ThreadPool& pool);

}  // namespace plimsoll
