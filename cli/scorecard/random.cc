#include "cli/scorecard/random.h"

#include <algorithm>
#include <cmath>

namespace plimsoll::cli::scorecard {

namespace {

constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
std::uint64_t scramble(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// ln 2 in two parts; the first has zeros at its end, so that its small multiples are exact.
constexpr double ln2_high = 0x1.62e42fefa0000p-1;
constexpr double ln2_low = 0x1.cf79abc9e3b3ap-40;

}  // namespace

std::uint64_t mix_bits(std::uint64_t a, std::uint64_t b) {
  return scramble(scramble(a + golden) + b + golden);
}

double portable_log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // exact, in [0.5, 1)
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  // ln m = 2 artanh z, and |z| < 0.18: 14 terms reach the last bit.
  const double z = (m - 1) / (m + 1);
  const double square = z * z;
  double sum = 0;
  for (int n = 27; n >= 1; n -= 2) sum = sum * square + 1.0 / n;
  return exponent * ln2_high + (exponent * ln2_low + 2 * z * sum);
}

double portable_exp(double x) {
  const double n = std::floor(x / (ln2_high + ln2_low) + 0.5);
  const double r = (x - n * ln2_high) - n * ln2_low;
  double sum = 1;
  for (int k = 16; k >= 1; --k) sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(n));
}

Draws::Draws(std::uint64_t seed, Purpose purpose, std::uint64_t index)
    : state_(mix_bits(mix_bits(seed, static_cast<std::uint64_t>(purpose)), index)) {}

std::uint64_t Draws::bits() { return scramble(state_ += golden); }

std::uint64_t Draws::below(std::uint64_t n) {
  // The share of the largest remainders is off by n / 2^64: nothing here is large enough to see it.
  return bits() % n;
}

double Draws::unit() { return (static_cast<double>(bits() >> 12) + 0.5) * 0x1p-52; }

double Draws::exponential() { return -portable_log(unit()); }

double Draws::normal() {
  while (true) {  // Marsaglia's polar method
    const double x = 2 * unit() - 1;
    const double y = 2 * unit() - 1;
    const double s = x * x + y * y;
    if (s > 0 && s < 1) return x * std::sqrt(-2 * portable_log(s) / s);
  }
}

double Draws::gamma(double shape) {
  if (shape < 1) {
    const double whole = gamma(shape + 1);
    return whole * portable_exp(std::max(-600.0, portable_log(unit()) / shape));
  }
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = normal();
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (portable_log(unit()) < 0.5 * x * x + d - d * v + d * portable_log(v)) return d * v;
  }
}

Zipf::Zipf(std::uint32_t count, double skew) {
  cumulative_.reserve(count);
  double sum = 0;
  for (std::uint32_t k = 1; k <= count; ++k) {
    cumulative_.push_back(sum += portable_exp(-skew * portable_log(k)));
  }
}

std::uint32_t Zipf::draw(Draws& draws) const {
  const double at = draws.unit() * cumulative_.back();
  const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end() - 1, at);
  return static_cast<std::uint32_t>(found - cumulative_.begin());
}

}  // namespace plimsoll::cli::scorecard
