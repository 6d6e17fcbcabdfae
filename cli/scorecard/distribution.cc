#include "cli/scorecard/distribution.h"

#include <algorithm>
#include <cmath>

namespace plimsoll::cli::scorecard {

namespace {

double lognormal(double median, double sigma, Draws& draws) {
  return portable_exp(std::clamp(portable_log(median) + sigma * draws.normal(), -600.0, 600.0));
}

// By inversion of the continuous distribution over [min, max + 1).
double zipf(double min, double max, double exponent, Draws& draws) {
  const double low = portable_log(min);
  const double high = portable_log(max + 1);
  const double u = draws.unit();
  const double k = 1 - exponent;
  if (std::abs(k) < 1e-9) return std::floor(portable_exp(low + u * (high - low)));
  const double a = portable_exp(std::clamp(k * low, -600.0, 600.0));
  const double b = portable_exp(std::clamp(k * high, -600.0, 600.0));
  return std::floor(portable_exp(portable_log(a + u * (b - a)) / k));
}

double length(const Lengths& l, Draws& draws) {
  switch (l.kind) {
    case Lengths::Kind::uniform:
      return l.min + static_cast<double>(draws.below(l.max - l.min + 1ULL));
    case Lengths::Kind::lognormal: return lognormal(l.median, l.sigma, draws);
    case Lengths::Kind::zipf: return zipf(l.min, l.max, l.exponent, draws);
    case Lengths::Kind::bimodal:
      return lognormal(draws.unit() < l.long_share ? l.long_median : l.median, l.sigma, draws);
    case Lengths::Kind::fixed: break;
  }
  return l.median;
}

// A wave of height 1 and mean 0: two parabolas, which a sine is close to.
double wave(double turns) {
  const double x = turns - std::floor(turns);
  const double half = x < 0.5 ? 2 * x : 2 * x - 1;
  return (x < 0.5 ? 4 : -4) * half * (1 - half);
}

}  // namespace

std::uint32_t draw(const Lengths& lengths, Draws& draws) {
  const double tokens = std::floor(length(lengths, draws) + 0.5);
  return static_cast<std::uint32_t>(std::clamp<double>(tokens, lengths.min, lengths.max));
}

double ArrivalTimes::next_s() {
  Draws draws(seed_, Purpose::arrival, index_++);
  const Arrivals& a = arrivals_;
  switch (a.kind) {
    case Arrivals::Kind::poisson: return now_s_ += draws.exponential() / a.rate;
    case Arrivals::Kind::gamma: {
      const double shape = 1 / (a.cv * a.cv);
      return now_s_ += draws.gamma(shape) / (shape * a.rate);
    }
    case Arrivals::Kind::uniform: return static_cast<double>(index_) / a.rate;
    case Arrivals::Kind::on_off: {
      const double period = a.on_s + a.off_s;
      now_s_ += draws.exponential() / (a.rate * period / a.on_s);
      const double rounds = std::floor(now_s_ / a.on_s);
      return rounds * period + (now_s_ - rounds * a.on_s);
    }
    case Arrivals::Kind::diurnal: break;
  }
  // Thinning (Lewis and Shedler 1979): of those at the highest rate, some are left out.
  do {
    now_s_ += draws.exponential() / (a.rate * (1 + a.depth));
  } while (draws.unit() * (1 + a.depth) > 1 + a.depth * wave(now_s_ / a.period_s));
  return now_s_;
}

}  // namespace plimsoll::cli::scorecard
