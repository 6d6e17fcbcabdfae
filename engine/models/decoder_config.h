// What one decoder-only transformer is, apart from its weights.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/result.h"
#include "engine/formats/gguf.h"
#include "engine/kernels/cpu/ops.h"
#include "engine/models/hyper_parameters.h"
#include "engine/models/model.h"

namespace plimsoll {

struct RopeConfig {
  float base = 10000.0F;
  float position_scale = 1.0F;  // linear scaling: positions are multiplied with it
};

enum class GatedActivation : std::uint8_t { silu, gelu_tanh };

struct DecoderConfig {
  std::string architecture;
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t ffn = 0;
  std::uint32_t vocab = 0;
  std::uint32_t context_tokens = 0;

  float norm_epsilon = 0.0F;
  float embedding_scale = 1.0F;
  float attention_scale = 0.0F;
  float attention_softcap = 0.0F;  // 0: none
  float final_softcap = 0.0F;
  GatedActivation activation = GatedActivation::silu;

  RopeStyle rope_style = RopeStyle::adjacent;
  RopeConfig rope;

  // Every window_pattern-th layer sees all keys; the others, the local ones, see `window` of them
  // and have a rope of their own. 0: all layers see all keys.
  std::uint32_t window = 0;
  std::uint32_t window_pattern = 0;
  RopeConfig local_rope;

  bool qkv_bias = false;
  bool qk_norm = false;     // RMSNorm of each query and key head, before rope
  bool post_norms = false;  // RMSNorm of what attention and FFN give, before the residual sum

  bool is_local(std::uint32_t layer) const {
    return window > 0 && (layer + 1) % window_pattern != 0;
  }
};

// Errors: malformed (missing, zero, absurd or contradictory hyper-parameters), unsupported (the
// architecture, or a variant of it, is not handled).
Result<DecoderConfig> read_decoder_config(const GgufFile& file);

ModelInfo decoder_info(const GgufFile& file, const DecoderConfig& config);

// The families: what each adds to the parameters that all share.
void read_llama(HyperParameters& parameters, const GgufFile& file, DecoderConfig& config);
void read_gemma3(HyperParameters& parameters, DecoderConfig& config);

}  // namespace plimsoll
