// Percentiles of any number of times in bounded memory.
#pragma once

#include <cstdint>
#include <vector>

namespace plimsoll::cli::scorecard {

// Buckets that grow with their values, as in HdrHistogram: a percentile is at most 0.8% off, and
// never under the true one. Holds 1 us to 12 days; what is beyond counts as the end.
class Histogram {
 public:
  Histogram();
  void add(double seconds, std::uint64_t count = 1);

  std::uint64_t count() const { return count_; }
  double mean_s() const;  // 0 of none
  double max_s() const { return max_s_; }
  // The time that a share of `quantile` (0 to 1) of all does not exceed; 0 of none.
  double quantile_s(double quantile) const;

 private:
  std::vector<std::uint64_t> counts_;
  std::uint64_t count_ = 0;
  double sum_s_ = 0;
  double max_s_ = 0;
};

}  // namespace plimsoll::cli::scorecard
