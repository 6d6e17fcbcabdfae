#include "engine/kernels/cpu/matmul.h"

#include <algorithm>
#include <cassert>

#include "engine/kernels/cpu/matmul_paths.h"

namespace plimsoll {
namespace {

enum class Path : std::uint8_t { float32, bf16, int8 };

Path path_of(const Product& product) {
  switch (product.w->packed.form) {
    case PackedForm::none: return Path::float32;
    case PackedForm::bf16: return Path::bf16;
    default: return Path::int8;
  }
}

}  // namespace

void matmul(std::span<const Product> products, const float* x, std::size_t ldx,
            const QuantizedActivations& x_q, std::size_t tokens, ThreadPool& pool) {
  if (tokens == 0) return;
  while (!products.empty()) {
    // Those that follow each other on one path share out their panels together.
    const Path path = path_of(products.front());
    const auto end =
        std::ranges::find_if(products, [&](const auto& p) { return path_of(p) != path; });
    const auto together = products.first(static_cast<std::size_t>(end - products.begin()));
    products = products.subspan(together.size());
    assert(path == Path::int8 ||
           std::ranges::all_of(together, [](const auto& p) { return p.rest == nullptr; }));
    switch (path) {
      case Path::int8: matmul_int8(together, x_q, tokens, pool); break;
      case Path::bf16: matmul_bf16(together, x, ldx, tokens, pool); break;
      case Path::float32:
        for (const Product& product : together) matmul_float(product, x, ldx, tokens, pool);
        break;
    }
  }
}

}  // namespace plimsoll
