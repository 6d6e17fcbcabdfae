// The weights of a decoder-only transformer, under their GGUF names.
#pragma once

#include <span>
#include <vector>

#include "engine/kernels/cpu/matmul.h"
#include "engine/models/decoder_config.h"
#include "engine/models/weights.h"

namespace plimsoll {

// Vectors that the model does not have are null.
struct DecoderLayer {
  const float* attention_norm = nullptr;  // [hidden]
  WeightMatrix q;                         // [heads * head_dim, hidden]
  WeightMatrix k, v;                      // [kv_heads * head_dim, hidden]
  const float* q_bias = nullptr;          // [heads * head_dim]
  const float* k_bias = nullptr;          // [kv_heads * head_dim]
  const float* v_bias = nullptr;
  const float* q_norm = nullptr;  // [head_dim]
  const float* k_norm = nullptr;
  WeightMatrix attention_output;               // [hidden, heads * head_dim]
  const float* post_attention_norm = nullptr;  // [hidden]
  const float* ffn_norm = nullptr;             // [hidden]
  WeightMatrix gate, up;                       // [ffn, hidden]
  WeightMatrix down;                           // [hidden, ffn]
  const float* post_ffn_norm = nullptr;        // [hidden]
};

struct DecoderWeights {
  WeightMatrix embedding;  // [vocab, hidden]
  WeightMatrix output;     // [vocab, hidden]; the embedding where the file has no other
  const float* output_norm = nullptr;
  std::span<const float> rope_factors;  // [head_dim / 2], or empty
  std::vector<DecoderLayer> layers;

  // All that are multiplied with.
  std::vector<WeightMatrix*> products();
};

// Errors: malformed (a tensor is missing or has another shape), unsupported (one is left over).
Result<DecoderWeights> bind_decoder_weights(const DecoderConfig& config, Weights& weights);

}  // namespace plimsoll
