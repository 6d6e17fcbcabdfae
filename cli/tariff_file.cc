#include "cli/tariff_file.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

namespace plimsoll::cli {

namespace {

using cluster::Micros;
using cluster::Tariff;
using cluster::Tier;
using Price = std::function<Micros&(Tariff&)>;

const std::map<std::string, Price>& prices() {
  static const std::map<std::string, Price> all = {
      {"per_gib_hour.kv", [](Tariff& t) -> Micros& { return t.kv; }},
      {"per_gib_hour.cache", [](Tariff& t) -> Micros& { return t.cache; }},
      {"per_gib_hour.weights", [](Tariff& t) -> Micros& { return t.weights; }},
      {"per_million_tokens.prompt", [](Tariff& t) -> Micros& { return t.prompt; }},
      {"per_million_tokens.cached", [](Tariff& t) -> Micros& { return t.cached; }},
      {"per_million_tokens.generated", [](Tariff& t) -> Micros& { return t.generated; }},
      {"tier_factor.guaranteed", [](Tariff& t) -> Micros& { return t.tier_factor[0]; }},
      {"tier_factor.standard", [](Tariff& t) -> Micros& { return t.tier_factor[1]; }},
      {"tier_factor.best-effort", [](Tariff& t) -> Micros& { return t.tier_factor[2]; }}};
  static_assert(static_cast<int>(Tier::guaranteed) == 0 &&
                static_cast<int>(Tier::best_effort) == 2);
  return all;
}

class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  Result<Tariff> read(const YAML::Node& root) {
    if (!root.IsMap()) return wrong(root, "", "a tariff is a map of keys and prices");
    for (const auto& entry : root) {
      const auto key = entry.first.Scalar();
      if (!seen_.insert(key).second) return wrong(entry.first, key, "is given twice");
      if (key == "currency") {
        auto good = read_currency(entry.second);
        if (!good) return tl::unexpected(good.error());
        continue;
      }
      const bool family = std::ranges::any_of(
          prices(), [&](const auto& price) { return price.first.starts_with(key + "."); });
      if (!family) return wrong(entry.first, key, "is no key of a tariff");
      if (!entry.second.IsMap()) return wrong(entry.second, key, "must be a map of prices");
      for (const auto& item : entry.second) {
        auto good = read_price(key + "." + item.first.Scalar(), item.first, item.second);
        if (!good) return tl::unexpected(good.error());
      }
    }
    if (tariff_.currency.empty()) return wrong(root, "currency", "is missing");
    return tariff_;
  }

 private:
  Result<void> read_currency(const YAML::Node& value) {
    const bool good =
        value.IsScalar() && value.Scalar().size() == 3 &&
        std::ranges::all_of(value.Scalar(), [](char c) { return c >= 'A' && c <= 'Z'; });
    if (!good) return wrong(value, "currency", "must be three capital letters, as EUR");
    tariff_.currency = value.Scalar();
    return {};
  }

  Result<void> read_price(const std::string& key, const YAML::Node& name, const YAML::Node& value) {
    const auto price = prices().find(key);
    if (price == prices().end()) return wrong(name, key, "is no key of a tariff");
    if (!seen_.insert(key).second) return wrong(name, key, "is given twice");
    const auto amount = value.IsScalar() ? cluster::parse_micros(value.Scalar()) : std::nullopt;
    if (!amount) {
      return wrong(
          value, key,
          "must be a decimal number of 0 or more with at most six digits behind the point");
    }
    price->second(tariff_) = *amount;
    return {};
  }

  tl::unexpected<Error> wrong(const YAML::Node& node, const std::string& key,
                              const std::string& message) const {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}:{}: {}{}{}", file_, node.Mark().line + 1, key,
                            key.empty() ? "" : ": ", message));
  }

  const std::string file_;
  std::set<std::string> seen_;
  Tariff tariff_;
};

}  // namespace

Result<Tariff> load_tariff(const std::filesystem::path& file) {
  try {
    return Reader(file.string()).read(YAML::LoadFile(file.string()));
  } catch (const YAML::BadFile&) {
    return fail(ErrorCode::invalid_argument, "cannot read " + file.string());
  } catch (const YAML::Exception& e) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}:{}: {}", file.string(), e.mark.line + 1, e.msg));
  }
}

}  // namespace plimsoll::cli
