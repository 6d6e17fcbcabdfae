#include "cli/scorecard/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace plimsoll::cli::scorecard {

namespace {

constexpr int sub_bits = 7;                 // 128 buckets to a doubling
constexpr std::uint64_t most = 1ULL << 40;  // us
constexpr std::size_t buckets = (40 - sub_bits + 2) << sub_bits;

// Values below 128 have a bucket each; above, their first 8 binary digits tell it.
std::size_t bucket_of(std::uint64_t us) {
  if (us < (1U << sub_bits)) return us;
  const int shift = std::bit_width(us) - 1 - sub_bits;
  return (static_cast<std::size_t>(shift) << sub_bits) + (us >> shift);
}
std::uint64_t highest_in(std::size_t bucket) {
  if (bucket < (2U << sub_bits)) return bucket;
  const std::size_t shift = (bucket >> sub_bits) - 1;
  const std::uint64_t digits = (bucket & ((1U << sub_bits) - 1)) + (1U << sub_bits);
  return ((digits + 1) << shift) - 1;
}

}  // namespace

Histogram::Histogram() : counts_(buckets) {}

void Histogram::add(double seconds, std::uint64_t count) {
  const double us = std::clamp(std::ceil(seconds * 1e6), 0.0, static_cast<double>(most));
  counts_[bucket_of(static_cast<std::uint64_t>(us))] += count;
  count_ += count;
  sum_s_ += seconds * static_cast<double>(count);
  max_s_ = std::max(max_s_, seconds);
}

double Histogram::mean_s() const { return count_ == 0 ? 0 : sum_s_ / static_cast<double>(count_); }

double Histogram::quantile_s(double quantile) const {
  if (count_ == 0) return 0;
  const auto rank = std::max<std::uint64_t>(
      1, static_cast<std::uint64_t>(std::ceil(quantile * static_cast<double>(count_) - 1e-9)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen >= rank) return std::min(static_cast<double>(highest_in(i)) * 1e-6, max_s_);
  }
  return max_s_;
}

}  // namespace plimsoll::cli::scorecard
