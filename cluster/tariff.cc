#include "cluster/tariff.h"

#include <algorithm>
#include <cmath>

namespace plimsoll::cluster {
namespace {

constexpr Micros million = 1'000'000;
constexpr double gib_hour = 3600.0 * (1ULL << 30);

// For byte-seconds, which are measured: a double holds them to a part in 10^15.
Micros held(double byte_seconds, Micros price, Micros factor) {
  const double micros = byte_seconds / gib_hour * static_cast<double>(price) *
                        (static_cast<double>(factor) / static_cast<double>(million));
  return std::llround(std::clamp(micros, 0.0, 9e18));
}

// For tokens, which are counted: exact.
Micros counted(std::uint64_t tokens, Micros price, Micros factor) {
  const auto scale = static_cast<__int128>(million) * million;
  const auto amount = static_cast<__int128>(tokens) * price * factor;
  return static_cast<Micros>((amount + scale / 2) / scale);
}

}  // namespace

std::optional<Micros> parse_micros(std::string_view text) {
  const auto point = std::min(text.find('.'), text.size());
  const auto whole = text.substr(0, point);
  const auto rest = point < text.size() ? text.substr(point + 1) : std::string_view("0");
  if (whole.empty() || whole.size() > 9 || rest.empty() || rest.size() > 6) return std::nullopt;
  const auto digits = [](std::string_view part) {
    return std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
  };
  if (!digits(whole) || !digits(rest)) return std::nullopt;
  Micros value = 0;
  for (const char c : whole) value = value * 10 + (c - '0');
  for (std::size_t i = 0; i < 6; ++i) value = value * 10 + (i < rest.size() ? rest[i] - '0' : 0);
  return value;
}

std::string to_decimal(Micros amount) {
  const bool negative = amount < 0;
  const auto size =
      negative ? -static_cast<std::uint64_t>(amount) : static_cast<std::uint64_t>(amount);
  const std::string rest = std::to_string(size % million);
  return (negative ? "-" : "") + std::to_string(size / million) + "." +
         std::string(6 - rest.size(), '0') + rest;
}

Bill& Bill::operator+=(const Bill& other) {
  kv += other.kv;
  cache += other.cache;
  weights += other.weights;
  prompt += other.prompt;
  cached += other.cached;
  generated += other.generated;
  return *this;
}

Bill price(const Tariff& tariff, std::optional<Tier> tier, const Usage& usage) {
  const Micros factor = tier ? tariff.tier_factor[static_cast<std::size_t>(*tier)] : million;
  const auto cached = std::min(usage.cached_tokens, usage.prompt_tokens);
  Bill bill;
  bill.kv = held(usage.kv_byte_seconds, tariff.kv, factor);
  bill.cache = held(usage.cache_byte_seconds, tariff.cache, factor);
  bill.weights = held(usage.weights_byte_seconds, tariff.weights, factor);
  bill.prompt = counted(usage.prompt_tokens - cached, tariff.prompt, factor);
  bill.cached = counted(cached, tariff.cached, factor);
  bill.generated = counted(usage.generated_tokens, tariff.generated, factor);
  return bill;
}

Usage between(const Usage& before, const Usage& after) {
  const auto less = [](auto was, auto is) { return is > was ? is - was : decltype(is){0}; };
  Usage out;
  out.requests = less(before.requests, after.requests);
  out.prompt_tokens = less(before.prompt_tokens, after.prompt_tokens);
  out.cached_tokens = less(before.cached_tokens, after.cached_tokens);
  out.generated_tokens = less(before.generated_tokens, after.generated_tokens);
  out.kv_byte_seconds = less(before.kv_byte_seconds, after.kv_byte_seconds);
  out.cache_byte_seconds = less(before.cache_byte_seconds, after.cache_byte_seconds);
  out.weights_byte_seconds = less(before.weights_byte_seconds, after.weights_byte_seconds);
  return out;
}

}  // namespace plimsoll::cluster
