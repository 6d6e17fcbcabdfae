// The two paths of matmul(). Internal; see matmul.h for the shapes.
#pragma once

#include "engine/kernels/cpu/matmul.h"

namespace plimsoll {

// No product is packed.
void matmul_float(const Product& product, const float* x, std::size_t ldx, std::size_t tokens,
                  ThreadPool& pool);
// All products are packed.
void matmul_int8(std::span<const Product> products, const QuantizedActivations& x,
                 std::size_t tokens, ThreadPool& pool);

}  // namespace plimsoll
