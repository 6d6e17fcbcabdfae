// Attention over paged KV, and the writing of new keys and values into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/base/types.h"
#include "engine/kernels/cpu/thread_pool.h"
#include "engine/kv/kv_layout.h"

namespace plimsoll {

inline constexpr std::uint32_t max_head_dim = 512;  // what the kernels' stack buffers hold

struct AttentionShape {
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;  // divides heads: grouped-query attention
  std::uint32_t head_dim = 0;  // at most max_head_dim
  float scale = 1.0F;          // on q.k
  float softcap = 0.0F;        // cap * tanh(score / cap) where > 0
  std::uint32_t window = 0;    // keys at distance >= window are not seen; 0: no window
};

// One sequence's tokens of this step. q and out are [tokens, heads, head_dim] with a row stride.
struct AttentionSequence {
  const float* q = nullptr;
  float* out = nullptr;
  std::uint32_t tokens = 0;
  std::uint32_t start_position = 0;  // of the first token; keys 0..start+tokens-1 are in the blocks
  std::span<const BlockId> blocks;   // the block table, from the layer's group on
};

// Floats of scratch that the functions below need for each thread of the pool: a tile of queries,
// their outputs, scores and keys, and what segments of keys made of a few rows; whatever the
// context.
std::size_t attention_scratch_floats(const AttentionShape& shape);

// Causal attention of every sequence of a step at one layer, with an online softmax (Milakov &
// Gimelshein 2018; Dao et al. 2022). Work is split over (sequence, KV head, queries), and over
// segments of the keys where there are few of those: segments lie at fixed positions, and what they
// made is added up in their order (Dao et al. 2023, "Flash-Decoding"), so that a query's
// result depends, to the last bit, on its keys and values alone: not on the other sequences, nor
// on how its sequence was cut into chunks. scratch: threads * attention_scratch_floats().
void attention(const AttentionShape& shape, const KvLayout& layout, const std::byte* pool_data,
               std::uint32_t layer, std::span<const AttentionSequence> sequences,
               std::size_t row_stride, std::span<float> scratch, ThreadPool& pool);

// Stores k and v, [tokens, kv_heads, head_dim] with a row stride, at positions
// start_position.. of the block table, in the layout's type.
void write_kv(const KvLayout& layout, std::byte* pool_data, std::uint32_t layer,
              std::span<const BlockId> blocks, std::uint32_t start_position, std::uint32_t tokens,
              const float* k, const float* v, std::size_t row_stride);

// Bidirectional attention without a cache (BERT), over one sequence: q and out are
// [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim]; q, k and v have one row stride.
// scratch: threads * attention_scratch_floats().
void attention_bidirectional(const AttentionShape& shape, const float* q, const float* k,
                             const float* v, float* out, std::uint32_t tokens,
                             std::size_t row_stride, std::size_t out_stride,
                             std::span<float> scratch, ThreadPool& pool);

}  // namespace plimsoll
