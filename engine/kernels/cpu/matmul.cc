#include "engine/kernels/cpu/matmul.h"

#include "engine/kernels/cpu/matmul_paths.h"

namespace plimsoll {

void matmul(const WeightMatrix& w, const float* x, std::size_t ldx, const QuantizedActivations& x_q,
            std::size_t tokens, float* y, std::size_t ldy, ThreadPool& pool) {
  if (w.packed.empty()) {
    matmul_float(w.source, x, ldx, tokens, y, ldy, pool);
  } else {
    matmul_int8(w.packed, x_q, tokens, y, ldy, pool);
  }
}

}  // namespace plimsoll
