// How long prompts and answers are, and when requests come.
#pragma once

#include <cstdint>

#include "cli/scorecard/random.h"

namespace plimsoll::cli::scorecard {

// Tokens, kept within [min, max].
struct Lengths {
  enum class Kind : std::uint8_t {
    fixed,      // `median`
    uniform,    // from min to max
    lognormal,  // `median`, and `sigma` of the logarithm
    zipf,       // n tokens with a weight of n^-exponent, from min to max
    bimodal,    // two lognormals: around `median`, and, a share of `long_share`, `long_median`
  };
  Kind kind = Kind::fixed;
  double median = 128;
  double sigma = 0.5;
  double exponent = 1.5;
  double long_median = 1024;
  double long_share = 0.1;
  std::uint32_t min = 1;
  std::uint32_t max = 8192;

  bool operator==(const Lengths&) const = default;
};

std::uint32_t draw(const Lengths& lengths, Draws& draws);

// `rate` requests a second, in the mean over a long time.
struct Arrivals {
  enum class Kind : std::uint8_t {
    poisson,
    gamma,    // gaps with a coefficient of variation of `cv`: above 1 they come in bursts
    uniform,  // all gaps alike
    on_off,   // Poisson for `on_s`, then nothing for `off_s`
    diurnal,  // Poisson, whose rate swings by ± `depth` of itself over `period_s`
  };
  Kind kind = Kind::poisson;
  double rate = 1;
  double cv = 2;
  double on_s = 5;
  double off_s = 5;
  double period_s = 60;
  double depth = 0.8;  // 0 to 1

  bool operator==(const Arrivals&) const = default;
};

// The times of arrival, one after the other.
class ArrivalTimes {
 public:
  ArrivalTimes(const Arrivals& arrivals, std::uint64_t seed) : arrivals_(arrivals), seed_(seed) {}
  double next_s();

 private:
  Arrivals arrivals_;
  std::uint64_t seed_;
  std::uint64_t index_ = 0;
  double now_s_ = 0;  // of on_off: of the time in which requests come
};

}  // namespace plimsoll::cli::scorecard
