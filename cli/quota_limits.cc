#include "cli/quota_limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "cli/quantity.h"
#include "client/operator.h"
#include "cluster/tenant.h"

namespace plimsoll::cli {

namespace {

using Json = nlohmann::ordered_json;

tl::unexpected<Error> wrong(std::string message) {
  return fail(ErrorCode::invalid_argument, std::move(message));
}

Result<double> parse_rate(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) ||
      value < 0) {
    return wrong(fmt::format("'{}' is not a number, 0 or more", text));
  }
  return value;
}

template <class Number>
std::string or_none(Number number, const std::string& text) {
  return number == 0 ? "none" : text;
}
std::string or_zero(const std::string& text) { return text == "none" ? "0" : text; }

template <class Quota>
QuotaLimit<Quota> rate(std::string name, std::string help, std::string field,
                       double Quota::*member) {
  return {std::move(name),
          std::move(help),
          "RATE",
          std::move(field),
          [member](const Quota& q) { return or_none(q.*member, fmt::format("{}", q.*member)); },
          [member](const Quota& q) { return q.*member; },
          [member](Quota& q, const std::string& text) -> Result<void> {
            const auto value = parse_rate(or_zero(text));
            if (!value) return fail(value.error());
            q.*member = *value;
            return {};
          }};
}

template <class Quota>
QuotaLimit<Quota> count(std::string name, std::string help, std::string field,
                        std::uint32_t Quota::*member, std::uint32_t least) {
  return {std::move(name),
          std::move(help),
          "COUNT",
          std::move(field),
          [member](const Quota& q) { return or_none(q.*member, std::to_string(q.*member)); },
          [member](const Quota& q) { return q.*member; },
          [member, least](Quota& q, const std::string& given) -> Result<void> {
            std::uint32_t value = 0;
            const auto text = least == 0 ? or_zero(given) : given;
            const auto [end, error] =
                std::from_chars(text.data(), text.data() + text.size(), value);
            if (error != std::errc{} || end != text.data() + text.size() || value < least) {
              return wrong(fmt::format("'{}' is not a whole number, {} or more", text, least));
            }
            q.*member = value;
            return {};
          }};
}

template <class Quota>
QuotaLimit<Quota> bytes(std::string name, std::string help, std::string field,
                        std::uint64_t Quota::*member) {
  return {
      std::move(name),
      std::move(help),
      "SIZE",
      std::move(field),
      [member](const Quota& q) { return or_none(q.*member, show_quantity(q.*member, byte_units)); },
      [member](const Quota& q) { return q.*member; },
      [member](Quota& q, const std::string& text) -> Result<void> {
        const auto value = parse_bytes(or_zero(text));
        if (!value) return fail(value.error());
        q.*member = *value;
        return {};
      }};
}

// Burst and deadline: times in different units.
template <class Quota, class T>
QuotaLimit<Quota> time(std::string name, std::string help, std::string field, T Quota::*member,
                       double per_ms, bool zero_is_none) {
  const auto ms = [member, per_ms](const Quota& q) {
    return static_cast<std::uint64_t>(std::llround(static_cast<double>(q.*member) / per_ms));
  };
  return {std::move(name),
          std::move(help),
          "TIME",
          std::move(field),
          [ms, zero_is_none](const Quota& q) {
            const auto text = show_quantity(ms(q), time_units);
            return zero_is_none ? or_none(ms(q), text) : text;
          },
          [member](const Quota& q) { return q.*member; },
          [member, per_ms, zero_is_none](Quota& q, const std::string& given) -> Result<void> {
            const auto text = or_zero(given);
            const auto value = text == "0" ? Result<std::uint64_t>(0) : parse_time_ms(text);
            if (!value) return fail(value.error());
            if (*value == 0 && !zero_is_none) return wrong("must be more than 0");
            if (*value > std::numeric_limits<std::uint32_t>::max()) return wrong("is too long");
            q.*member = static_cast<T>(static_cast<double>(*value) * per_ms);
            return {};
          }};
}

template <class Quota>
Result<void> set_models(Quota& quota, const std::string& text) {
  quota.models.clear();
  if (text == "all") return {};
  for (std::size_t start = 0; start <= text.size();) {
    const auto end = std::min(text.find(',', start), text.size());
    if (end == start) return wrong("write NAME,NAME,... or all");
    quota.models.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return {};
}

template <class Quota>
std::vector<QuotaLimit<Quota>> make_limits() {
  return {
      rate<Quota>("requests-per-second", "requests", "requests_per_second",
                  &Quota::requests_per_second),
      rate<Quota>("prompt-tokens-per-second", "prompt tokens", "prompt_tokens_per_second",
                  &Quota::prompt_tokens_per_second),
      rate<Quota>("generated-tokens-per-second", "generated tokens", "generated_tokens_per_second",
                  &Quota::generated_tokens_per_second),
      time<Quota>("burst", "so much of each rate may come at once", "burst_seconds",
                  &Quota::burst_seconds, 0.001, false),
      count<Quota>("sequences", "sequences that wait or run", "sequences", &Quota::sequences, 1),
      bytes<Quota>("kv-memory", "KV memory of all its sequences", "kv_bytes", &Quota::kv_bytes),
      bytes<Quota>("guaranteed-memory", "KV memory kept for it", "guaranteed_bytes",
                   &Quota::guaranteed_bytes),
      bytes<Quota>("burst-memory", "KV memory over the former while there is no pressure",
                   "burst_bytes", &Quota::burst_bytes),
      bytes<Quota>("cache-memory", "memory of its cached prefixes", "cache_bytes",
                   &Quota::cache_bytes),
      count<Quota>("prompt-tokens", "tokens of one prompt", "prompt_tokens", &Quota::prompt_tokens,
                   0),
      count<Quota>("generated-tokens", "generated tokens of one sequence", "generated_tokens",
                   &Quota::generated_tokens, 0),
      count<Quota>("request-tokens", "tokens of one request, prompt and all that it may generate",
                   "request_tokens", &Quota::request_tokens, 0),
      time<Quota>("deadline", "longest deadline of a request", "deadline_ms", &Quota::deadline_ms,
                  1.0, true),
      {"models", "models that it may use, or all", "NAME,...|all", "models",
       [](const Quota& q) {
         return q.models.empty() ? "all" : fmt::format("{}", fmt::join(q.models, ","));
       },
       [](const Quota& q) { return Json(q.models); }, set_models<Quota>},
  };
}

}  // namespace

template <class Quota>
std::string QuotaLimit<Quota>::key() const {
  std::string key = name;
  std::ranges::replace(key, '-', '_');
  return key;
}

template <class Quota>
const std::vector<QuotaLimit<Quota>>& quota_limits() {
  static const std::vector<QuotaLimit<Quota>> limits = make_limits<Quota>();
  return limits;
}

template struct QuotaLimit<client::Quota>;
template struct QuotaLimit<cluster::Quota>;
template const std::vector<QuotaLimit<client::Quota>>& quota_limits();
template const std::vector<QuotaLimit<cluster::Quota>>& quota_limits();

}  // namespace plimsoll::cli
