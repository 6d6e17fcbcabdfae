// The paths of matmul(). Internal; see matmul.h for the shapes.
#pragma once

#include <algorithm>

#include "engine/kernels/cpu/matmul.h"

namespace plimsoll {

// No product is packed.
void matmul_float(const Product& product, const float* x, std::size_t ldx, std::size_t tokens,
                  ThreadPool& pool);
// All products are packed to bfloat16.
void matmul_bf16(std::span<const Product> products, const float* x, std::size_t ldx,
                 std::size_t tokens, ThreadPool& pool);
// All products are packed to integers.
void matmul_int8(std::span<const Product> products, const QuantizedActivations& x,
                 std::size_t tokens, ThreadPool& pool);

// Shares out the panels of all products together: f(product, begin, end).
template <class F>
void each_products_panels(std::span<const Product> products, ThreadPool& pool, const F& f) {
  std::size_t panels = 0;
  for (const Product& product : products) panels += product.w->packed.panels();
  pool.parallel_for(panels, 1, [&](std::size_t begin, std::size_t end, int) {
    std::size_t before = 0;  // panels of the products before this one
    for (const Product& product : products) {
      const std::size_t n = product.w->packed.panels();
      const std::size_t first = std::max(begin, before), last = std::min(end, before + n);
      if (first < last) f(product, first - before, last - before);
      before += n;
    }
  });
}

}  // namespace plimsoll
