#include "engine/kernels/cpu/matmul.h"

#include <algorithm>
#include <cassert>

#include "engine/kernels/cpu/matmul_paths.h"

namespace plimsoll {

void matmul(std::span<const Product> products, const float* x, std::size_t ldx,
            const QuantizedActivations& x_q, std::size_t tokens, ThreadPool& pool) {
  if (tokens == 0) return;
  const auto form_of = [](const Product& product) { return product.w->packed.form; };
  while (!products.empty()) {
    // Those that follow each other on the same path share out their panels together.
    const auto same_path = [&](const Product& product) {
      return is_quantized(form_of(product)) == is_quantized(form_of(products[0])) &&
             (form_of(product) == PackedForm::none) == (form_of(products[0]) == PackedForm::none);
    };
    const auto end = std::ranges::find_if_not(products, same_path);
    const auto together = products.first(static_cast<std::size_t>(end - products.begin()));
    products = products.subspan(together.size());
    if (is_quantized(form_of(together[0]))) {
      matmul_int8(together, x_q, tokens, pool);
      continue;
    }
    assert(std::ranges::all_of(together, [](const Product& p) { return p.rest == nullptr; }));
    if (form_of(together[0]) == PackedForm::bf16) {
      matmul_bf16(together, x, ldx, tokens, pool);
      continue;
    }
    for (const Product& product : together) matmul_float(product, x, ldx, tokens, pool);
  }
}

}  // namespace plimsoll
