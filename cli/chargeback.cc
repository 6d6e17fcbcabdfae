// plimsoll chargeback: what each tenant's memory and tokens cost.
#include <fmt/format.h>

#include <fstream>
#include <optional>

#include "cli/show.h"
#include "cli/tariff_file.h"

namespace plimsoll::cli {

namespace {

using Usages = std::map<std::string, cluster::Usage>;

struct Line {
  std::string tenant;
  std::string tier;  // empty: the tenant is gone, or it is nobody's
  cluster::Bill bill;
};

// As `plimsoll tenant usage -o json` wrote it at some moment.
Usages read_usages(const std::string& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error("cannot read " + file);
  try {
    Usages out;
    for (const auto& entry : Json::parse(in)) {
      auto& usage = out[entry.at("tenant").get<std::string>()];
      usage.prompt_tokens = entry.at("prompt_tokens").get<std::uint64_t>();
      usage.cached_tokens = entry.at("cached_tokens").get<std::uint64_t>();
      usage.generated_tokens = entry.at("generated_tokens").get<std::uint64_t>();
      usage.kv_byte_seconds = entry.at("kv_byte_seconds").get<double>();
      usage.cache_byte_seconds = entry.at("cache_byte_seconds").get<double>();
      usage.weights_byte_seconds = entry.at("weights_byte_seconds").get<double>();
    }
    return out;
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(file +
                             ": not what `plimsoll tenant usage -o json` writes: " + e.what());
  }
}

Usages present_usages(client::Operator& cluster) {
  Usages out;
  for (const auto& from : cluster.usage()) {
    auto& usage = out[from.tenant];
    usage.prompt_tokens = from.prompt_tokens;
    usage.cached_tokens = from.cached_tokens;
    usage.generated_tokens = from.generated_tokens;
    usage.kv_byte_seconds = from.kv_byte_seconds;
    usage.cache_byte_seconds = from.cache_byte_seconds;
    usage.weights_byte_seconds = from.weights_byte_seconds;
  }
  return out;
}

std::optional<cluster::Tier> tier_of(const std::string& name) {
  for (const auto tier :
       {cluster::Tier::guaranteed, cluster::Tier::standard, cluster::Tier::best_effort}) {
    if (to_string(tier) == name) return tier;
  }
  return std::nullopt;
}

std::vector<Line> lines_of(const cluster::Tariff& tariff, const Usages& before, const Usages& after,
                           const std::map<std::string, std::string>& tiers) {
  std::vector<Line> lines;
  for (const auto& [tenant, usage] : after) {
    const auto was = before.find(tenant);
    const auto used = cluster::between(was == before.end() ? cluster::Usage() : was->second, usage);
    const auto tier = tiers.find(tenant);
    Line line{tenant, tier == tiers.end() ? "" : tier->second, {}};
    line.bill = price(tariff, tier_of(line.tier), used);
    lines.push_back(std::move(line));
  }
  return lines;
}

// In the order of the columns.
std::array<cluster::Micros, 7> amounts(const cluster::Bill& bill) {
  return {bill.kv,     bill.cache,     bill.weights, bill.prompt,
          bill.cached, bill.generated, bill.total()};
}
constexpr const char* names[] = {"kv",     "cache",     "weights", "prompt",
                                 "cached", "generated", "total"};

// Amounts are text: a decimal number that no program rounds.
Json to_json(const cluster::Tariff& tariff, const std::vector<Line>& lines) {
  Json json{{"currency", tariff.currency}, {"tenants", Json::array()}};
  cluster::Bill total;
  const auto fill = [](Json& out, const cluster::Bill& bill) {
    const auto values = amounts(bill);
    for (std::size_t i = 0; i < values.size(); ++i) out[names[i]] = cluster::to_decimal(values[i]);
  };
  for (const auto& line : lines) {
    Json entry{{"tenant", line.tenant}, {"tier", line.tier}};
    fill(entry, line.bill);
    json["tenants"].push_back(std::move(entry));
    total += line.bill;
  }
  json["total"] = Json::object();
  fill(json["total"], total);
  return json;
}

// Tenants' names have no characters that would need quotes.
std::string csv_of(const cluster::Tariff& tariff, const std::vector<Line>& lines) {
  std::string csv = fmt::format("tenant,tier,currency,{}\n", fmt::join(names, ","));
  for (const auto& line : lines) {
    csv += fmt::format("{},{},{}", line.tenant, line.tier, tariff.currency);
    for (const auto amount : amounts(line.bill)) csv += "," + cluster::to_decimal(amount);
    csv += "\n";
  }
  return csv;
}

std::string table_of(const cluster::Tariff& tariff, const std::vector<Line>& lines) {
  Table table({{"TENANT"},
               {"TIER"},
               {"KV", true},
               {"CACHE", true},
               {"WEIGHTS", true},
               {"PROMPT", true},
               {"CACHED", true},
               {"GENERATED", true},
               {tariff.currency, true}});
  const auto add = [&](const std::string& tenant, const std::string& tier,
                       const cluster::Bill& bill) {
    std::vector<std::string> row{tenant, tier.empty() ? "-" : tier};
    for (const auto amount : amounts(bill)) row.push_back(cluster::to_decimal(amount));
    table.add(std::move(row));
  };
  cluster::Bill total;
  for (const auto& line : lines) {
    add(line.tenant, line.tier, line.bill);
    total += line.bill;
  }
  add("all", "", total);
  return table.text();
}

}  // namespace

void add_chargeback(CLI::App& app, Context& context) {
  struct Options {
    std::string tariff, from, to;
    bool csv = false;
  };
  auto options = std::make_shared<Options>();
  auto* verb = add_operator_verb(
      app, context, "chargeback", "what tenants' memory and tokens cost (operator's key)",
      [options, &context](client::Operator& cluster) {
        const auto tariff = load_tariff(options->tariff);
        if (!tariff) throw std::runtime_error(tariff.error().message);
        const auto before = options->from.empty() ? Usages() : read_usages(options->from);
        const auto after = options->to.empty() ? present_usages(cluster) : read_usages(options->to);
        std::map<std::string, std::string> tiers;
        for (const auto& view : cluster.tenants()) tiers[view.tenant.name] = view.tenant.tier;
        const auto lines = lines_of(*tariff, before, after, tiers);
        return show(context.remote, false, [&]() -> View {
          return {to_json(*tariff, lines),
                  options->csv ? csv_of(*tariff, lines) : table_of(*tariff, lines)};
        });
      });
  verb->add_option("--tariff", options->tariff, "YAML file of prices")
      ->required()
      ->option_text("FILE");
  verb->add_option("--from", options->from,
                   "what `tenant usage -o json` wrote at the beginning; absent: since each tenant "
                   "was created")
      ->option_text("FILE");
  verb->add_option("--to", options->to, "what it wrote at the end; absent: until now")
      ->option_text("FILE");
  verb->add_flag("--csv", options->csv, "comma-separated values instead of a table");
}

}  // namespace plimsoll::cli
