#include "engine/kernels/cpu/matmul.h"

#include <algorithm>
#include <cassert>

#include "engine/kernels/cpu/matmul_paths.h"

namespace plimsoll {

void matmul(std::span<const Product> products, const float* x, std::size_t ldx,
            const QuantizedActivations& x_q, std::size_t tokens, ThreadPool& pool) {
  if (tokens == 0) return;
  const auto is_packed = [](const Product& product) { return !product.w->packed.empty(); };
  if (std::ranges::all_of(products, is_packed)) {
    matmul_int8(products, x_q, tokens, pool);
    return;
  }
  for (const Product& product : products) {
    if (is_packed(product)) {
      matmul_int8({&product, 1}, x_q, tokens, pool);
    } else {
      assert(product.rest == nullptr);
      matmul_float(product, x, ldx, tokens, pool);
    }
  }
}

}  // namespace plimsoll
