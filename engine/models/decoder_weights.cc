#include "engine/models/decoder_weights.h"

#include <string>

namespace plimsoll {

std::vector<WeightMatrix*> DecoderWeights::products() {
  std::vector<WeightMatrix*> all;
  for (DecoderLayer& l : layers) {
    all.insert(all.end(), {&l.q, &l.k, &l.v, &l.attention_output, &l.gate, &l.up, &l.down});
  }
  all.push_back(&output);
  return all;
}

Result<DecoderWeights> bind_decoder_weights(const DecoderConfig& c, Weights& weights) {
  const std::uint64_t q_rows = std::uint64_t{c.heads} * c.head_dim;
  const std::uint64_t kv_rows = std::uint64_t{c.kv_heads} * c.head_dim;
  DecoderWeights all;
  all.embedding = weights.matrix("token_embd.weight", c.vocab, c.hidden);
  all.output = weights.has("output.weight") ? weights.matrix("output.weight", c.vocab, c.hidden)
                                            : all.embedding;
  all.output_norm = weights.vector("output_norm.weight", c.hidden);
  if (weights.has("rope_freqs.weight")) {  // Llama 3.1 and later
    const float* factors = weights.vector("rope_freqs.weight", c.head_dim / 2);
    if (factors != nullptr) all.rope_factors = {factors, c.head_dim / 2};
  }
  for (std::uint32_t i = 0; i < c.layers && !weights.error(); ++i) {
    const std::string p = "blk." + std::to_string(i) + ".";
    DecoderLayer l;
    l.attention_norm = weights.vector(p + "attn_norm.weight", c.hidden);
    l.q = weights.matrix(p + "attn_q.weight", q_rows, c.hidden);
    l.k = weights.matrix(p + "attn_k.weight", kv_rows, c.hidden);
    l.v = weights.matrix(p + "attn_v.weight", kv_rows, c.hidden);
    if (c.qkv_bias) {
      l.q_bias = weights.vector(p + "attn_q.bias", q_rows);
      l.k_bias = weights.vector(p + "attn_k.bias", kv_rows);
      l.v_bias = weights.vector(p + "attn_v.bias", kv_rows);
    }
    if (c.qk_norm) {
      l.q_norm = weights.vector(p + "attn_q_norm.weight", c.head_dim);
      l.k_norm = weights.vector(p + "attn_k_norm.weight", c.head_dim);
    }
    l.attention_output = weights.matrix(p + "attn_output.weight", c.hidden, q_rows);
    l.ffn_norm = weights.vector(p + "ffn_norm.weight", c.hidden);
    l.gate = weights.matrix(p + "ffn_gate.weight", c.ffn, c.hidden);
    l.up = weights.matrix(p + "ffn_up.weight", c.ffn, c.hidden);
    l.down = weights.matrix(p + "ffn_down.weight", c.hidden, c.ffn);
    if (c.post_norms) {
      l.post_attention_norm = weights.vector(p + "post_attention_norm.weight", c.hidden);
      l.post_ffn_norm = weights.vector(p + "post_ffw_norm.weight", c.hidden);
    }
    all.layers.push_back(std::move(l));
  }
  weights.reject_unused();
  if (weights.error()) return fail(*weights.error());
  return all;
}

}  // namespace plimsoll
