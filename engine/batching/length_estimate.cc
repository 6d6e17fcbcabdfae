#include "engine/batching/length_estimate.h"

#include <algorithm>
#include <cmath>

namespace plimsoll {
namespace {

// The least length that is over the bucket.
double upper(std::size_t bucket) { return std::exp2(static_cast<double>(bucket + 1) / 2); }

}  // namespace

void LengthEstimate::add(std::uint32_t tokens) {
  const auto doublings = 2 * std::log2(std::max(1.0, static_cast<double>(tokens)));
  ++counts_[std::min(static_cast<std::size_t>(doublings), buckets - 1)];
  if (++total_ < full) return;
  total_ = 0;
  for (auto& count : counts_) total_ += count /= 2;
}

std::uint32_t LengthEstimate::quantile() const {
  std::uint32_t seen = 0;
  for (std::size_t b = 0; b < buckets; ++b) {
    seen += counts_[b];
    if (10 * seen >= 9 * total_) return static_cast<std::uint32_t>(std::ceil(upper(b)));
  }
  return ~0U;
}

std::uint32_t LengthEstimate::expect(std::uint32_t limit, const LengthEstimate& others) const {
  const auto& known = total_ >= enough ? *this : others;
  return known.total_ >= enough ? std::min(limit, known.quantile()) : (limit + 1) / 2;
}

}  // namespace plimsoll
