// Gemma 3 (Gemma Team 2025, "Gemma 3 Technical Report"): five layers with a sliding window to one
// that sees everything, each kind with a rope of its own; norms before and after attention and FFN,
// and on Q and K; GeGLU; embeddings times sqrt(hidden). The (1 + w) of its norms is folded into the
// weights of GGUF files.
#include <cmath>

#include "engine/models/decoder_config.h"

namespace plimsoll {
namespace {
constexpr std::uint32_t default_window_pattern = 6;
constexpr float default_local_rope_base = 10000.0F;
// The 27B model alone scales its queries by the hidden size's share of a head, not by the head's
// length; GGUF has no key for it, its number of layers tells.
constexpr std::uint32_t layers_of_27b = 62;
}  // namespace

void read_gemma3(HyperParameters& p, DecoderConfig& c) {
  c.rope_style = RopeStyle::halves;
  c.activation = GatedActivation::gelu_tanh;
  c.qk_norm = true;
  c.post_norms = true;
  c.embedding_scale = std::sqrt(static_cast<float>(c.hidden));
  if (c.layers == layers_of_27b) {
    c.attention_scale =
        1.0F / std::sqrt(static_cast<float>(c.hidden) / static_cast<float>(c.heads));
  }
  c.window = p.count("attention.sliding_window", 1 << 28);
  c.window_pattern = p.count("attention.sliding_window_pattern", 1024, default_window_pattern);
  c.local_rope.base = p.number("rope.freq_base_swa", 1, 1e12, default_local_rope_base);
  c.attention_softcap = p.number("attn_logit_softcapping", 0, 1e6, 0.0F);
  c.final_softcap = p.number("final_logit_softcapping", 0, 1e6, 0.0F);
}

}  // namespace plimsoll
