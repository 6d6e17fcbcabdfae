// The shape of a KV block in memory, shared by the pool that owns it and the kernels that read it.
//
// A block holds the keys and values of `block_tokens` consecutive tokens for all layers:
//   block: [layers] of { K [kv_heads, head_dim, block_tokens],
//                        V [kv_heads, block_tokens, head_dim],
//                        K scales, V scales }
// K is transposed so that one vector holds the same dimension of 16 keys: their scores then need
// no sum across a vector, and decode and prefill add them up in the same order.
//
//   f16   no scales
//   int8  -127..127, and a scale of a token's head: [kv_heads, block_tokens] f16
//   int4  0..15 and, of each 32 columns of a token's head, a scale and a minimum: [kv_heads,
//         2 (scales, minima), groups, block_tokens] f16. A value is minimum + scale * u. Heads are
//         padded to whole groups, and keys are rotated (rotate-inl.h).
//         Two values lie in a byte, low bits first: in K dimensions 2i and 2i + 1, in V columns
//         i and i + 16 of a group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace plimsoll {

enum class KvType : std::uint8_t { f16, int8, int4 };

constexpr std::string_view to_string(KvType type) {
  switch (type) {
    case KvType::f16: return "f16";
    case KvType::int8: return "int8";
    case KvType::int4: return "int4";
  }
  return "";
}

struct KvLayout {
  static constexpr std::uint32_t group_columns = 32;  // of int4, that share a scale

  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 16;  // a multiple of 16
  KvType type = KvType::f16;

  // Of a token's head in int4.
  std::size_t groups() const { return (head_dim + group_columns - 1) / group_columns; }

  // K or V of one token and head.
  std::size_t row_bytes() const {
    switch (type) {
      case KvType::f16: return std::size_t{head_dim} * 2;
      case KvType::int8: return head_dim;
      case KvType::int4: return groups() * group_columns / 2;
    }
    return 0;
  }
  std::size_t row_scales_bytes() const {
    switch (type) {
      case KvType::f16: return 0;
      case KvType::int8: return sizeof(std::uint16_t);
      case KvType::int4: return groups() * 2 * sizeof(std::uint16_t);
    }
    return 0;
  }
  std::size_t head_bytes() const { return block_tokens * row_bytes(); }
  std::size_t head_scales_bytes() const { return block_tokens * row_scales_bytes(); }
  std::size_t values_bytes() const { return kv_heads * head_bytes(); }  // K or V of a layer
  std::size_t scales_bytes() const { return kv_heads * head_scales_bytes(); }
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
