#include "engine/formats/tensor.h"

namespace plimsoll {

std::optional<TensorTypeInfo> tensor_type_info(std::uint32_t type) {
  switch (static_cast<TensorType>(type)) {
    case TensorType::f32: return TensorTypeInfo{"F32", 1, 4};
    case TensorType::f16: return TensorTypeInfo{"F16", 1, 2};
    case TensorType::q4_0: return TensorTypeInfo{"Q4_0", 32, 18};
    case TensorType::q4_1: return TensorTypeInfo{"Q4_1", 32, 20};
    case TensorType::q5_0: return TensorTypeInfo{"Q5_0", 32, 22};
    case TensorType::q5_1: return TensorTypeInfo{"Q5_1", 32, 24};
    case TensorType::q8_0: return TensorTypeInfo{"Q8_0", 32, 34};
    case TensorType::q4_k: return TensorTypeInfo{"Q4_K", 256, 144};
    case TensorType::q5_k: return TensorTypeInfo{"Q5_K", 256, 176};
    case TensorType::q6_k: return TensorTypeInfo{"Q6_K", 256, 210};
    case TensorType::i64: return TensorTypeInfo{"I64", 1, 8};
    case TensorType::bf16: return TensorTypeInfo{"BF16", 1, 2};
  }
  return std::nullopt;
}

}  // namespace plimsoll
