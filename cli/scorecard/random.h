// Random numbers that are the same on every machine: the standard's distributions differ between
// libraries, and log and exp in their last bit.
#pragma once

#include <cstdint>
#include <vector>

namespace plimsoll::cli::scorecard {

// A well mixed number of two; not for secrets.
std::uint64_t mix_bits(std::uint64_t a, std::uint64_t b);

double portable_log(double x);  // x > 0
double portable_exp(double x);  // |x| < 700

// What a draw is for: each has numbers of its own, so that a change of one distribution leaves the
// others' draws as they were.
enum class Purpose : std::uint8_t {
  arrival,
  traffic,
  tenant,
  prompt_length,
  output_length,
  prefix,
  token,
};

// The numbers of one purpose for the `index`th request: they depend on nothing else.
class Draws {
 public:
  Draws(std::uint64_t seed, Purpose purpose, std::uint64_t index);

  std::uint64_t bits();
  std::uint64_t below(std::uint64_t n);  // n > 0
  double unit();                         // in (0, 1)
  double exponential();                  // mean 1
  double normal();                       // mean 0, variance 1
  double gamma(double shape);            // mean `shape`; Marsaglia and Tsang (2000)

 private:
  std::uint64_t state_;
};

// 0, 1, ..., with weights 1, 2^-skew, 3^-skew, ...
class Zipf {
 public:
  Zipf(std::uint32_t count, double skew);  // count > 0
  std::uint32_t draw(Draws& draws) const;

 private:
  std::vector<double> cumulative_;
};

}  // namespace plimsoll::cli::scorecard
