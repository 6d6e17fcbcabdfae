#include "engine/kernels/cpu/ops.h"

#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/cpu/ops.cc"
#include "engine/kernels/cpu/dispatch.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "engine/kernels/cpu/exp-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plimsoll {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = HWY_LANES(float);

// out[i] = f(x[i], y[i]); the tail goes through a zero-padded vector, so that f sees every
// element in the same way.
template <class F>
HWY_INLINE void Map(const float* x, const float* y, std::size_t n, float* out, F f) {
  const D d;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(f(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  if (i < n) {
    float tail_x[lanes] = {}, tail_y[lanes] = {};
    std::memcpy(tail_x, x + i, (n - i) * sizeof(float));
    std::memcpy(tail_y, y + i, (n - i) * sizeof(float));
    hn::StoreU(f(hn::LoadU(d, tail_x), hn::LoadU(d, tail_y)), d, tail_x);
    std::memcpy(out + i, tail_x, (n - i) * sizeof(float));
  }
}

// The sum of f(x[i], y[i]) over four vector accumulators: an order that depends on n alone.
// f(0, 0) must be 0.
template <class F>
HWY_INLINE float Sum(const float* x, const float* y, std::size_t n, F f) {
  const D d;
  V sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (std::size_t j = 0; j < 4; ++j) {
      sum[j] = f(hn::LoadU(d, x + i + j * lanes), hn::LoadU(d, y + i + j * lanes), sum[j]);
    }
  }
  for (; i + lanes <= n; i += lanes) sum[0] = f(hn::LoadU(d, x + i), hn::LoadU(d, y + i), sum[0]);
  if (i < n) {
    float tail_x[lanes] = {}, tail_y[lanes] = {};
    std::memcpy(tail_x, x + i, (n - i) * sizeof(float));
    std::memcpy(tail_y, y + i, (n - i) * sizeof(float));
    sum[1] = f(hn::LoadU(d, tail_x), hn::LoadU(d, tail_y), sum[1]);
  }
  const V all = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
  return hn::GetLane(hn::SumOfLanes(d, all));
}

float Dot(const float* x, const float* y, std::size_t n) {
  return Sum(x, y, n, [](V a, V b, V sum) HWY_ATTR { return hn::MulAdd(a, b, sum); });
}

void RmsNorm(const float* x, const float* weight, float epsilon, std::size_t n, float* out) {
  const D d;
  const float mean_square = Dot(x, x, n) / static_cast<float>(n);
  const V factor = hn::Set(d, 1.0F / std::sqrt(mean_square + epsilon));
  Map(x, weight, n, out, [=](V a, V w) HWY_ATTR { return hn::Mul(hn::Mul(a, factor), w); });
}

void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, std::size_t n,
               float* out) {
  const D d;
  const float mean =
      Sum(x, x, n, [](V a, V, V sum) HWY_ATTR { return hn::Add(sum, a); }) / static_cast<float>(n);
  // Centred first: the difference of two large sums would lose what a small variance needs.
  const V centre = hn::Set(d, mean);
  Map(x, x, n, out, [=](V a, V) HWY_ATTR { return hn::Sub(a, centre); });
  const float variance = Dot(out, out, n) / static_cast<float>(n);
  const V factor = hn::Set(d, 1.0F / std::sqrt(variance + epsilon));
  Map(out, weight, n, out, [=](V a, V w) HWY_ATTR { return hn::Mul(hn::Mul(a, factor), w); });
  Map(out, bias, n, out, [](V a, V b) HWY_ATTR { return hn::Add(a, b); });
}

void AddRows(const float* x, const float* y, std::size_t n, float* out) {
  Map(x, y, n, out, [](V a, V b) HWY_ATTR { return hn::Add(a, b); });
}

void Scale(const float* x, float factor, std::size_t n, float* out) {
  const V f = hn::Set(D(), factor);
  Map(x, x, n, out, [=](V a, V) HWY_ATTR { return hn::Mul(a, f); });
}

void SoftMax(float* x, std::size_t n) {
  const D d;
  float largest = x[0];
  std::size_t i = 0;
  if (n >= lanes) {
    V m = hn::LoadU(d, x);
    for (; i + lanes <= n; i += lanes) m = hn::Max(m, hn::LoadU(d, x + i));
    largest = hn::GetLane(hn::MaxOfLanes(d, m));
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  const V m = hn::Set(d, largest);
  Map(x, x, n, x, [=](V a, V) HWY_ATTR { return BoundedExp(D(), hn::Sub(a, m)); });
  const float sum = Sum(x, x, n, [](V a, V, V s) HWY_ATTR { return hn::Add(s, a); });
  Scale(x, 1.0F / sum, n, x);
}

void SiluMul(const float* gate, const float* up, std::size_t n, float* out) {
  Map(gate, up, n, out, [](V g, V u) HWY_ATTR {
    const D d;
    const V silu = hn::Div(g, hn::Add(hn::Set(d, 1.0F), BoundedExp(d, hn::Neg(g))));
    return hn::Mul(silu, u);
  });
}

// 0.5 x (1 + tanh(z)) is x / (1 + exp(-2z)), which needs one exponential and loses nothing where
// tanh nears -1. z = sqrt(2/pi) (x + 0.044715 x^3): Hendrycks & Gimpel 2016.
void GeluTanhMul(const float* gate, const float* up, std::size_t n, float* out) {
  Map(gate, up, n, out, [](V g, V u) HWY_ATTR {
    const D d;
    const V inner = hn::MulAdd(hn::Mul(hn::Mul(g, g), g), hn::Set(d, 0.044715F), g);
    const V e = BoundedExp(d, hn::Mul(inner, hn::Set(d, -1.5957691216F)));
    return hn::Mul(hn::Div(g, hn::Add(hn::Set(d, 1.0F), e)), u);
  });
}

// erf by Abramowitz & Stegun 7.1.26: absolute error below 1.5e-7, about float32's own.
void GeluErf(const float* x, std::size_t n, float* out) {
  Map(x, x, n, out, [](V a, V) HWY_ATTR {
    const D d;
    const V one = hn::Set(d, 1.0F);
    const V z = hn::Mul(hn::Abs(a), hn::Set(d, 0.70710678119F));
    const V t = hn::Div(one, hn::MulAdd(z, hn::Set(d, 0.3275911F), one));
    V poly = hn::Set(d, 1.061405429F);
    poly = hn::MulAdd(poly, t, hn::Set(d, -1.453152027F));
    poly = hn::MulAdd(poly, t, hn::Set(d, 1.421413741F));
    poly = hn::MulAdd(poly, t, hn::Set(d, -0.284496736F));
    poly = hn::MulAdd(poly, t, hn::Set(d, 0.254829592F));
    poly = hn::Mul(poly, t);
    const V upper = hn::Mul(poly, BoundedExp(d, hn::Neg(hn::Mul(z, z))));  // 1 - erf(|z|)
    const V half = hn::Mul(hn::Set(d, 0.5F), a);
    // x Phi(x): for x < 0 the small upper tail itself, without cancellation.
    return hn::IfThenElse(hn::Lt(a, hn::Zero(d)), hn::Mul(half, upper),
                          hn::Sub(hn::Add(half, half), hn::Mul(half, upper)));
  });
}

void SoftCap(float* x, float cap, std::size_t n) {
  const V c = hn::Set(D(), cap);
  const V inverse = hn::Set(D(), 1.0F / cap);
  Map(x, x, n, x, [=](V a, V) HWY_ATTR { return hn::Mul(c, hn::Tanh(D(), hn::Mul(a, inverse))); });
}

void Rope(float* x, std::size_t heads, std::uint32_t head_dim, const float* cos_table,
          const float* sin_table, RopeStyle style) {
  const std::size_t half = head_dim / 2;
  for (std::size_t head = 0; head < heads; ++head, x += head_dim) {
    if (style == RopeStyle::adjacent) {
      for (std::size_t i = 0; i < half; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos_table[i] - b * sin_table[i];
        x[2 * i + 1] = a * sin_table[i] + b * cos_table[i];
      }
    } else {
      for (std::size_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos_table[i] - b * sin_table[i];
        x[i + half] = a * sin_table[i] + b * cos_table[i];
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace plimsoll
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plimsoll {

HWY_EXPORT(Dot);
HWY_EXPORT(RmsNorm);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(AddRows);
HWY_EXPORT(Scale);
HWY_EXPORT(SoftMax);
HWY_EXPORT(SiluMul);
HWY_EXPORT(GeluTanhMul);
HWY_EXPORT(GeluErf);
HWY_EXPORT(SoftCap);
HWY_EXPORT(Rope);

void rms_norm(const float* x, const float* weight, float epsilon, std::size_t n, float* out) {
  PLIMSOLL_DISPATCH(RmsNorm)(x, weight, epsilon, n, out);
}
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                std::size_t n, float* out) {
  PLIMSOLL_DISPATCH(LayerNorm)(x, weight, bias, epsilon, n, out);
}
void add(const float* x, const float* y, std::size_t n, float* out) {
  PLIMSOLL_DISPATCH(AddRows)(x, y, n, out);
}
void scale(const float* x, float factor, std::size_t n, float* out) {
  PLIMSOLL_DISPATCH(Scale)(x, factor, n, out);
}
void soft_max(float* x, std::size_t n) {
  if (n > 0) PLIMSOLL_DISPATCH(SoftMax)(x, n);
}
float dot(const float* x, const float* y, std::size_t n) { return PLIMSOLL_DISPATCH(Dot)(x, y, n); }
void silu_mul(const float* gate, const float* up, std::size_t n, float* out) {
  PLIMSOLL_DISPATCH(SiluMul)(gate, up, n, out);
}
void gelu_tanh_mul(const float* gate, const float* up, std::size_t n, float* out) {
  PLIMSOLL_DISPATCH(GeluTanhMul)(gate, up, n, out);
}
void gelu_erf(const float* x, std::size_t n, float* out) { PLIMSOLL_DISPATCH(GeluErf)(x, n, out); }
void soft_cap(float* x, float cap, std::size_t n) { PLIMSOLL_DISPATCH(SoftCap)(x, cap, n); }

void rope_table(std::uint32_t position, std::uint32_t head_dim, float base, float position_scale,
                std::span<const float> freq_factors, float* cos_out, float* sin_out) {
  // In double: at position 100,000 a float32 angle is already wrong in its third decimal.
  const double scaled = static_cast<double>(position) * position_scale;
  for (std::uint32_t i = 0; i < head_dim / 2; ++i) {
    double frequency = std::pow(static_cast<double>(base), -2.0 * i / head_dim);
    if (!freq_factors.empty()) frequency /= freq_factors[i];
    cos_out[i] = static_cast<float>(std::cos(scaled * frequency));
    sin_out[i] = static_cast<float>(std::sin(scaled * frequency));
  }
}

void rope(float* x, std::size_t heads, std::uint32_t head_dim, const float* cos_table,
          const float* sin_table, RopeStyle style) {
  PLIMSOLL_DISPATCH(Rope)(x, heads, head_dim, cos_table, sin_table, style);
}

}  // namespace plimsoll
#endif  // HWY_ONCE
