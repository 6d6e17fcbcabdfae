// The shape of a KV block in memory, shared by the pool that owns it and the kernels that read it.
//
// A block holds the keys and values of `block_tokens` consecutive tokens for all layers:
//   block: [layers] of { K [kv_heads, head_dim, block_tokens], V [kv_heads, block_tokens,
//   head_dim],
//                        int8 only: K scales [kv_heads, block_tokens] f32, V scales likewise }
// K is transposed so that one vector holds the same dimension of 16 keys: their scores then need
// no sum across a vector, and decode and prefill add them up in the same order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace plimsoll {

enum class KvType : std::uint8_t { f16, int8 };

struct KvLayout {
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 16;  // a multiple of 16
  KvType type = KvType::f16;

  std::size_t element_bytes() const { return type == KvType::f16 ? 2 : 1; }
  std::size_t head_bytes() const { return std::size_t{block_tokens} * head_dim * element_bytes(); }
  std::size_t values_bytes() const { return kv_heads * head_bytes(); }  // K or V of a layer
  std::size_t scales_bytes() const {
    return type == KvType::int8 ? std::size_t{kv_heads} * block_tokens * sizeof(float) : 0;
  }
  std::size_t layer_bytes() const { return 2 * (values_bytes() + scales_bytes()); }
  // Rounded up to 64 so that every block starts on a cache line.
  std::size_t block_bytes() const { return (layers * layer_bytes() + 63) / 64 * 64; }

  // Offsets inside a block.
  std::size_t k_offset(std::uint32_t layer) const { return layer * layer_bytes(); }
  std::size_t v_offset(std::uint32_t layer) const { return k_offset(layer) + values_bytes(); }
  std::size_t k_scales_offset(std::uint32_t layer) const {
    return k_offset(layer) + 2 * values_bytes();
  }
  std::size_t v_scales_offset(std::uint32_t layer) const {
    return k_scales_offset(layer) + scales_bytes();
  }

  std::uint32_t blocks_for(std::uint32_t tokens) const {
    return (tokens + block_tokens - 1) / block_tokens;
  }
};

}  // namespace plimsoll
