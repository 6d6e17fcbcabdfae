// What a tenant's usage costs. Money is counted in millionths of the currency's unit, in integers:
// a bill's total is the sum of its lines, to the last digit.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/tenant.h"

namespace plimsoll::cluster {

using Micros = std::int64_t;

// "12.5", "0.000001": at most six digits behind the point, none negative, up to a billion.
std::optional<Micros> parse_micros(std::string_view text);
std::string to_decimal(Micros amount);  // "12.500000"

struct Tariff {
  std::string currency;
  Micros kv = 0, cache = 0, weights = 0;                               // for a GiB held for an hour
  Micros prompt = 0, cached = 0, generated = 0;                        // for a million tokens
  std::array<Micros, 3> tier_factor{1'000'000, 1'000'000, 1'000'000};  // by Tier
};

struct Bill {
  Micros kv = 0, cache = 0, weights = 0;
  Micros prompt = 0, cached = 0, generated = 0;  // prompt: of those that were computed
  Micros total() const { return kv + cache + weights + prompt + cached + generated; }
  Bill& operator+=(const Bill& other);
  bool operator==(const Bill&) const = default;
};

// Each line is rounded to the nearest millionth. No tier: a factor of 1.
Bill price(const Tariff& tariff, std::optional<Tier> tier, const Usage& usage);

// What was used between two moments: `after` less `before`, never below 0.
Usage between(const Usage& before, const Usage& after);

}  // namespace plimsoll::cluster
