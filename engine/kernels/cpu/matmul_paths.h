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

// Shares out the panels of all products together, where those of products with a rest are twice the
// work: f(product, begin, end).
template <class F>
void each_products_panels(std::span<const Product> products, ThreadPool& pool, const F& f) {
  const auto cost = [](const Product& product) -> std::size_t {
    return product.rest != nullptr ? 2 : 1;
  };
  std::size_t costs = 0;
  for (const Product& product : products) costs += product.w->packed.panels() * cost(product);
  pool.parallel_for(costs, 1, [&](std::size_t begin, std::size_t end, int) {
    std::size_t before = 0;  // of the products before this one
    for (const Product& product : products) {
      const std::size_t each = cost(product), all = product.w->packed.panels() * each;
      const std::size_t first = std::max(begin, before), last = std::min(end, before + all);
      if (first < last) f(product, (first - before) / each, (last - before) / each);
      before += all;
    }
  });
}

}  // namespace plimsoll
