#include "engine/kernels/cpu/ops.h"

#include <cmath>
#include <functional>

#include "tests/engine/kernels/testing.h"

namespace plimsoll {
namespace {

class Ops : public EveryIsa {};
PLIMSOLL_FOR_EVERY_ISA(Ops);

const std::size_t sizes[] = {1, 3, 8, 15, 16, 17, 64, 100, 576, 1537};

void expect_near(const std::vector<float>& got, const std::function<double(std::size_t)>& want,
                 double relative, double absolute) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double w = want(i);
    ASSERT_NEAR(got[i], w, absolute + relative * std::abs(w))
        << "element " << i << " of " << got.size();
  }
}

TEST_P(Ops, RmsNormMatchesDouble) {
  for (const std::size_t n : sizes) {
    const auto x = random_floats(n, 1, 3.0F), w = random_floats(n, 2);
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(sum / n + 1e-5);
    std::vector<float> out(n);
    rms_norm(x.data(), w.data(), 1e-5F, n, out.data());
    expect_near(
        out, [&](std::size_t i) { return x[i] * factor * w[i]; }, 1e-6, 1e-7);
    std::vector<float> in_place = x;
    rms_norm(in_place.data(), w.data(), 1e-5F, n, in_place.data());
    EXPECT_EQ(in_place, out);
  }
}

TEST_P(Ops, NormsOfZerosAreFinite) {
  const std::vector<float> x(40, 0.0F), w(40, 1.0F), b(40, 0.5F);
  std::vector<float> out(40);
  rms_norm(x.data(), w.data(), 1e-6F, 40, out.data());
  EXPECT_EQ(out, std::vector<float>(40, 0.0F));
  layer_norm(x.data(), w.data(), b.data(), 1e-12F, 40, out.data());
  EXPECT_EQ(out, b);
}

TEST_P(Ops, LayerNormMatchesDoubleFarFromZero) {
  for (const std::size_t n : sizes) {
    auto x = random_floats(n, 3);
    for (float& v : x) v += 1000.0F;  // sum(x^2) - mean^2 would lose all digits here
    const auto w = random_floats(n, 4), b = random_floats(n, 5);
    double mean = 0, variance = 0;
    for (const float v : x) mean += v;
    mean /= n;
    for (const float v : x) variance += (v - mean) * (v - mean);
    const double factor = 1 / std::sqrt(variance / n + 1e-3);
    std::vector<float> out(n);
    layer_norm(x.data(), w.data(), b.data(), 1e-3F, n, out.data());
    expect_near(
        out, [&](std::size_t i) { return (x[i] - mean) * factor * w[i] + b[i]; }, 1e-3, 1e-3);
  }
}

TEST_P(Ops, SoftMaxSumsToOneWhateverTheScale) {
  for (const std::size_t n : sizes) {
    for (const float deviation : {0.0F, 1.0F, 1e4F}) {
      const auto x = random_floats(n, 6, deviation);
      double largest = -1e300, sum = 0;
      for (const float v : x) largest = std::max<double>(largest, v);
      for (const float v : x) sum += std::exp(v - largest);
      auto got = x;
      soft_max(got.data(), n);
      expect_near(
          got, [&](std::size_t i) { return std::exp(x[i] - largest) / sum; }, 2e-6, 1e-30);
    }
  }
  soft_max(nullptr, 0);
}

// From far below to far above where exp() under- and overflows.
std::vector<float> adversarial() {
  std::vector<float> x{0.0F,    -0.0F, 1e-40F, -1e-40F, 1e-20F, 1.0F,   -1.0F,   10.0F,
                       -10.0F,  50.0F, -50.0F, 88.0F,   -88.0F, 104.0F, -104.0F, 200.0F,
                       -200.0F, 1e4F,  -1e4F,  1e10F,   -1e10F, 1e30F,  -1e30F};
  const auto more = random_floats(200, 7, 4.0F);
  x.insert(x.end(), more.begin(), more.end());
  return x;
}

TEST_P(Ops, Activations) {
  const auto x = adversarial();
  const std::vector<float> up(x.size(), 2.0F);
  std::vector<float> out(x.size());

  silu_mul(x.data(), up.data(), x.size(), out.data());
  expect_near(
      out, [&](std::size_t i) { return 2.0 * x[i] / (1 + std::exp(-static_cast<double>(x[i]))); },
      2e-6, 1e-7);

  gelu_tanh_mul(x.data(), up.data(), x.size(), out.data());
  expect_near(
      out,
      [&](std::size_t i) {
        const double v = x[i];
        return v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
      },
      5e-6, 1e-6);

  gelu_erf(x.data(), x.size(), out.data());
  expect_near(
      out,
      [&](std::size_t i) {
        const double v = x[i];
        return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
      },
      1e-6, 1e-6);

  out = x;
  soft_cap(out.data(), 30.0F, out.size());
  expect_near(
      out, [&](std::size_t i) { return 30 * std::tanh(x[i] / 30.0); }, 1e-6, 1e-30);
}

TEST_P(Ops, DotAddScale) {
  for (const std::size_t n : sizes) {
    const auto x = random_floats(n, 8), y = random_floats(n, 9);
    double want = 0, magnitude = 0;
    for (std::size_t i = 0; i < n; ++i) {
      want += static_cast<double>(x[i]) * y[i];
      magnitude += std::abs(static_cast<double>(x[i]) * y[i]);
    }
    EXPECT_NEAR(dot(x.data(), y.data(), n), want, 1e-6 * magnitude);
    std::vector<float> out(n);
    add(x.data(), y.data(), n, out.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], x[i] + y[i]);
    scale(x.data(), 0.3F, n, out.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], x[i] * 0.3F);
  }
  EXPECT_EQ(dot(nullptr, nullptr, 0), 0.0F);
}

TEST_P(Ops, RopeRotatesPairs) {
  const std::uint32_t head_dim = 24, heads = 3;
  std::vector<float> c(head_dim / 2), s(head_dim / 2);
  rope_table(70001, head_dim, 10000.0F, 0.5F, {}, c.data(), s.data());
  for (std::uint32_t i = 0; i < head_dim / 2; ++i) {
    const double angle = 35000.5 * std::pow(10000.0, -2.0 * i / head_dim);
    EXPECT_NEAR(c[i], std::cos(angle), 1e-6) << i;
    EXPECT_NEAR(s[i], std::sin(angle), 1e-6) << i;
  }
  for (const RopeStyle style : {RopeStyle::adjacent, RopeStyle::halves}) {
    const auto x = random_floats(heads * head_dim, 10);
    auto y = x;
    rope(y.data(), heads, head_dim, c.data(), s.data(), style);
    for (std::uint32_t h = 0; h < heads; ++h) {
      for (std::uint32_t i = 0; i < head_dim / 2; ++i) {
        const bool adjacent = style == RopeStyle::adjacent;
        const std::size_t a = h * head_dim + (adjacent ? 2 * i : i);
        const std::size_t b = a + (adjacent ? 1 : head_dim / 2);
        EXPECT_NEAR(y[a], x[a] * c[i] - x[b] * s[i], 1e-6);
        EXPECT_NEAR(y[b], x[a] * s[i] + x[b] * c[i], 1e-6);
      }
    }
  }
}

TEST(Rope, FrequencyFactorsDivide) {
  const std::vector<float> factors{1.0F, 8.0F};
  float c[2], s[2];
  rope_table(40, 4, 100.0F, 1.0F, factors, c, s);
  EXPECT_NEAR(s[0], std::sin(40.0), 1e-6);
  EXPECT_NEAR(s[1], std::sin(40.0 / 10 / 8), 1e-6);
}

}  // namespace
}  // namespace plimsoll
