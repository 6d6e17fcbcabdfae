// The shape of a KV block in memory, shared by the pool that owns it and the kernels that read it.
//
// A model's layers are in groups of equal size: those whose layers see all tokens first, then those
// whose layers see the last `window` alone. For the same tokens each group has a block of its own,
// so that what lies below the window can go while the rest stays. A block table has a row for each
// `block_tokens` tokens, with an entry of each group: [rows][layer_groups()]; `no_block` stands
// where a windowed group has given its block back.
//
// A block holds the keys and values of `block_tokens` consecutive tokens for a group's layers:
//   block: [layers] of { K [kv_heads, head_dim, block_tokens],
//                        V [kv_heads, block_tokens, head_dim],
//                        K scales, V scales }
// K is transposed so that one vector holds the same dimension of 16 keys: their scores then need
// no sum across a vector, and decode and prefill add them up in the same order.
//
//   f16   no scales
//   bf16  no scales. Two values lie in 32 bits, the first in the low half: in K dimensions 2i and
//         2i + 1 of a key, [head_dim / 2, block_tokens], in V tokens 2j and 2j + 1 of a dimension,
//         [block_tokens / 2, head_dim].
//   int8  -127..127, and a scale of a token's head: [kv_heads, block_tokens] f16
//   int4  0..15 and, of each 32 columns of a token's head, a scale and a minimum: [kv_heads,
//         2 (scales, minima), groups, block_tokens] f16. A value is minimum + scale * u. Heads are
//         padded to whole groups, and keys are rotated (rotate-inl.h).
//         Two values lie in a byte, low bits first: in K dimensions 2i and 2i + 1, in V columns
//         i and i + 16 of a group.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>

#include "engine/base/types.h"

namespace plimsoll {

enum class KvType : std::uint8_t { f16, bf16, int8, int4 };

constexpr std::string_view to_string(KvType type) {
  switch (type) {
    case KvType::f16: return "f16";
    case KvType::bf16: return "bf16";
    case KvType::int8: return "int8";
    case KvType::int4: return "int4";
  }
  return "";
}

inline constexpr BlockId no_block{~std::uint32_t{0}};

struct KvLayout {
  static constexpr std::uint32_t group_columns = 32;  // of int4, that share a scale

  std::uint32_t layers = 0;  // of a block, which is of a group
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;       // even, but for f16 and int8
  std::uint32_t block_tokens = 16;  // a multiple of 16
  KvType type = KvType::bf16;
  std::uint32_t full_groups = 1, windowed_groups = 0;
  std::uint32_t window = 0;  // tokens, of windowed groups

  // All `layers` of a model in groups, where every pattern-th sees all tokens, the others the last
  // `tokens`: of as many layers as divide both. 0, or no layer that sees all: one group.
  KvLayout with_window(std::uint32_t tokens, std::uint32_t pattern) const {
    const std::uint32_t full = tokens == 0 ? layers : layers / pattern;
    if (full == 0 || full == layers) return *this;
    KvLayout grouped = *this;
    grouped.layers = std::gcd(full, layers - full);
    grouped.full_groups = full / grouped.layers;
    grouped.windowed_groups = (layers - full) / grouped.layers;
    grouped.window = tokens;
    return grouped;
  }
  std::uint32_t layer_groups() const { return full_groups + windowed_groups; }
  // All layers' keys and values of a token, as long as none has been passed by a window.
  std::uint64_t token_bytes() const { return layer_groups() * block_bytes() / block_tokens; }

  // Of a token's head in int4.
  std::size_t groups() const { return (head_dim + group_columns - 1) / group_columns; }

  // K or V of one token and head.
  std::size_t row_bytes() const {
    switch (type) {
      case KvType::f16:
      case KvType::bf16: return std::size_t{head_dim} * 2;
      case KvType::int8: return head_dim;
      case KvType::int4: return groups() * group_columns / 2;
    }
    return 0;
  }
  std::size_t row_scales_bytes() const {
    switch (type) {
      case KvType::f16:
      case KvType::bf16: return 0;
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

  // Where a token's block stands in a block table, from the group's first entry on.
  std::size_t table_index(std::size_t token) const { return token / block_tokens * layer_groups(); }
  // Of each group: the rows of a block table.
  std::uint32_t blocks_for(std::uint32_t tokens) const {
    return (tokens + block_tokens - 1) / block_tokens;
  }
  // Rows that the windowed groups need of a text that ends with a row, to go on behind it.
  std::uint32_t window_rows() const { return windowed_groups == 0 ? 0 : blocks_for(window - 1); }
  // The first row whose windowed blocks are of use where so many tokens are computed: to go on
  // behind them, or behind the last whole row of them. Without windowed groups none goes.
  std::uint32_t first_kept_row(std::uint32_t computed) const {
    if (windowed_groups == 0) return 0;
    const std::uint32_t rows = computed / block_tokens;
    return rows - std::min(rows, window_rows());
  }
};

// How many blocks a sequence takes.
struct KvDemand {
  std::uint32_t block_tokens = 16;
  std::uint32_t full_groups = 1, windowed_groups = 0;
  std::uint32_t window_rows = 0;  // of which windowed groups have blocks at the same time, at most

  // Where no step computes more than `chunk_tokens` of a sequence.
  static KvDemand of(const KvLayout& layout, std::uint32_t chunk_tokens) {
    KvDemand demand{layout.block_tokens, layout.full_groups, layout.windowed_groups, 0};
    // The chunk may begin with the last token of a row.
    if (layout.windowed_groups > 0) {
      demand.window_rows =
          layout.window_rows() + layout.blocks_for(layout.block_tokens - 1 + chunk_tokens);
    }
    return demand;
  }
  std::uint32_t layer_groups() const { return full_groups + windowed_groups; }
  std::uint32_t rows(std::uint32_t tokens) const {
    return (tokens + block_tokens - 1) / block_tokens;
  }
  // The most that it holds at once until it has so many rows.
  std::uint32_t blocks(std::uint32_t rows) const {
    return full_groups * rows + windowed_groups * std::min(rows, window_rows);
  }
  // How long a sequence may become that has the pool to itself.
  std::uint64_t tokens_within(std::uint64_t blocks) const {
    const std::uint64_t in_window = std::uint64_t{windowed_groups} * window_rows;
    const std::uint64_t rows = blocks <= std::uint64_t{layer_groups()} * window_rows
                                   ? blocks / layer_groups()
                                   : (blocks - in_window) / full_groups;
    return rows * block_tokens;
  }
};

}  // namespace plimsoll
