// Where attention's tiles come from: blocks of a table, or rows of floats; per target (see
// dispatch.h; the guard toggles on purpose).
#if defined(PLIMSOLL_ATTENTION_SOURCES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef PLIMSOLL_ATTENTION_SOURCES_INL_H
#undef PLIMSOLL_ATTENTION_SOURCES_INL_H
#else
#define PLIMSOLL_ATTENTION_SOURCES_INL_H
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "engine/base/types.h"
#include "engine/kernels/cpu/attention_tile-inl.h"
#include "engine/kernels/cpu/transpose-inl.h"
#include "engine/kv/kv_layout.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// out[i, key] = in[i, key] for 16 keys of a tile.
HWY_INLINE void ExpandScales(const hwy::float16_t* in, std::size_t block_tokens, std::size_t rows,
                             float* out) {
  const D d;
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t key = 0; key < group_keys; key += lanes) {
      hn::StoreU(LoadFloat(d, in + i * block_tokens + key), d, out + i * tile_keys + key);
    }
  }
}

// The tiles of a KV head at a layer, in the blocks of a table.
template <class T>
class PagedTiles {
 public:
  PagedTiles(const KvLayout& layout, const std::byte* pool_data, std::uint32_t layer,
             std::size_t kv_head, std::span<const BlockId> blocks, float* scales)
      : blocks_(blocks),
        block_tokens_(layout.block_tokens),
        table_stride_(layout.layer_groups()),
        block_bytes_(layout.block_bytes()),
        v_stride_(layout.row_bytes() / sizeof(T)),
        groups_(layout.groups()),
        k_(pool_data + layout.k_offset(layer) + kv_head * layout.head_bytes()),
        v_(pool_data + layout.v_offset(layer) + kv_head * layout.head_bytes()),
        k_scales_(pool_data + layout.k_scales_offset(layer) + kv_head * layout.head_scales_bytes()),
        v_scales_(pool_data + layout.v_scales_offset(layer) + kv_head * layout.head_scales_bytes()),
        scales_(scales) {}

  // The tile from key `first` on, of which some row sees `seen`. Other groups may have no block:
  // their entries in the table must not be looked at.
  Tile<T> operator()(std::size_t first, const Keys& seen) const {
    Tile<T> tile;
    tile.k_stride = block_tokens_;
    tile.v_stride = v_stride_;
    const std::size_t first_key = first + seen.first_group() * group_keys;
    std::size_t block = first_key / block_tokens_, slot = first_key % block_tokens_;
    for (std::size_t g = seen.first_group(); g < seen.end_group(); ++g) {
      const std::size_t at = blocks_[block * table_stride_].get() * block_bytes_;
      tile.k[g] = reinterpret_cast<const T*>(k_ + at) + slot;
      tile.v[g] = reinterpret_cast<const T*>(v_ + at) + slot * v_stride_;
      if constexpr (has_scales<T>) {
        const auto* const k_scales = reinterpret_cast<const hwy::float16_t*>(k_scales_ + at) + slot;
        const auto* const v_scales = reinterpret_cast<const hwy::float16_t*>(v_scales_ + at) + slot;
        float* const to = scales_ + g * group_keys;
        if constexpr (std::is_same_v<T, std::int8_t>) {
          ExpandScales(k_scales, block_tokens_, 1, to);
          ExpandScales(v_scales, block_tokens_, 1, to + tile_keys);
        } else {
          tile.k_scales[g] = k_scales;
          ExpandScales(v_scales, block_tokens_, 2 * groups_, to);
        }
      }
      slot += group_keys;
      if (slot < block_tokens_) continue;
      slot = 0;
      ++block;
    }
    if constexpr (std::is_same_v<T, std::int8_t>) {
      tile.k_scales = scales_;
      tile.v_scales = scales_ + tile_keys;
    }
    if constexpr (std::is_same_v<T, Int4Pair>) {
      tile.groups = groups_;
      tile.v_scales = scales_;
    }
    return tile;
  }

 private:
  std::span<const BlockId> blocks_;
  std::size_t block_tokens_;
  std::size_t table_stride_;
  std::size_t block_bytes_;
  std::size_t v_stride_;
  std::size_t groups_;
  const std::byte* k_;  // of the head, in block 0
  const std::byte* v_;
  const std::byte* k_scales_;
  const std::byte* v_scales_;
  float* scales_;
};

// The tile from key `first` on of a sequence of `end` keys that lies in rows of floats: transposed
// into `memory`.
HWY_INLINE Tile<float> PlainTile(const float* k, const float* v, std::size_t stride,
                                 std::size_t head_dim, std::size_t first, const Keys& seen,
                                 float* memory) {
  Tile<float> tile;
  tile.k_stride = group_keys;
  tile.v_stride = stride;
  for (std::size_t g = seen.first_group(); g < seen.end_group(); ++g) {
    float* const group = memory + g * group_keys * head_dim;
    const std::size_t from = first + g * group_keys;
    const std::size_t keys = std::min(seen.end - g * group_keys, group_keys);
    if (keys < group_keys) std::fill_n(group, group_keys * head_dim, 0.0F);
    Transpose(k + from * stride, stride, keys, head_dim, group, group_keys);
    tile.k[g] = group;
    tile.v[g] = v + from * stride;
  }
  return tile;
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#endif
