// Element-wise and row-wise operations of the forward pass. All buffers are float32, row-major;
// `out` may equal `x` where both have the same shape. Each runs on the calling thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace plimsoll {

// RMSNorm (Zhang & Sennrich 2019) of one row: out = x / rms(x) * weight.
void rms_norm(const float* x, const float* weight, float epsilon, std::size_t n, float* out);
// LayerNorm (Ba et al. 2016) of one row.
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                std::size_t n, float* out);

void add(const float* x, const float* y, std::size_t n, float* out);
void scale(const float* x, float factor, std::size_t n, float* out);
void soft_max(float* x, std::size_t n);
float dot(const float* x, const float* y, std::size_t n);

// out = silu(gate) * up (SwiGLU, Shazeer 2020), and the tanh-GELU form (GeGLU).
void silu_mul(const float* gate, const float* up, std::size_t n, float* out);
void gelu_tanh_mul(const float* gate, const float* up, std::size_t n, float* out);
// The exact GELU, x * Phi(x), with erf (BERT).
void gelu_erf(const float* x, std::size_t n, float* out);
// cap * tanh(x / cap)
void soft_cap(float* x, float cap, std::size_t n);

// Rotary position embedding (Su et al. 2021).
enum class RopeStyle : std::uint8_t {
  adjacent,  // rotates (x[2i], x[2i+1]): GGUF llama files
  halves,    // rotates (x[i], x[i+d/2]): NeoX, Qwen, Gemma
};
// cos and sin of one position: [head_dim / 2] each. freq_factors (optional, may be empty) divide
// the frequencies (Llama-3 long context); `position_scale` multiplies the position (linear
// scaling).
void rope_table(std::uint32_t position, std::uint32_t head_dim, float base, float position_scale,
                std::span<const float> freq_factors, float* cos_out, float* sin_out);
// In place over `heads` heads of one token.
void rope(float* x, std::size_t heads, std::uint32_t head_dim, const float* cos_table,
          const float* sin_table, RopeStyle style);

}  // namespace plimsoll
