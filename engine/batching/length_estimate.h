// How long generations become, learnt from those that ended: what a sequence is expected to need,
// where its worst case would leave most of a reservation unused.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace plimsoll {

class LengthEstimate {
 public:
  // Of a generation that came to its end or to its limit.
  void add(std::uint32_t tokens);

  // Tokens that 9 of 10 generations do not exceed, at most `limit`. While few are known, those of
  // `others` count; while few of these are known, half of `limit`.
  std::uint32_t expect(std::uint32_t limit, const LengthEstimate& others) const;

 private:
  // Bucket b holds lengths below 2^((b + 1) / 2): two a doubling, up to a million tokens.
  static constexpr std::size_t buckets = 40;
  static constexpr std::uint32_t enough = 16;
  // Then all counts are halved: what was learnt long ago fades.
  static constexpr std::uint32_t full = 1024;

  std::uint32_t quantile() const;

  std::array<std::uint16_t, buckets> counts_{};
  std::uint32_t total_ = 0;
};

}  // namespace plimsoll
