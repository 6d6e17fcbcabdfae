// The llama family: RMSNorm, rope, grouped-query attention, SwiGLU (Touvron et al. 2023), and its
// two near relatives. Qwen2 adds biases to Q, K and V (Yang et al. 2024); Qwen3 drops them and
// normalises each head of Q and K (Yang et al. 2025).
#include "engine/models/decoder_config.h"

namespace plimsoll {

void read_llama(HyperParameters& parameters, const GgufFile& file, DecoderConfig& config) {
  // GGUF's converter permutes the rows of Q and K in llama files, so that rope turns neighbours.
  config.rope_style = config.architecture == "llama" ? RopeStyle::adjacent : RopeStyle::halves;
  config.qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  config.qk_norm = config.architecture == "qwen3";
  if (config.architecture == "qwen2" && !config.qkv_bias) {
    parameters.reject(ErrorCode::malformed, "tensor 'blk.0.attn_q.bias' is missing");
  }
}

}  // namespace plimsoll
