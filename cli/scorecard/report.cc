#include "cli/scorecard/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace plimsoll::cli::scorecard {

namespace {

constexpr const char* schema = "plimsoll.scorecard/1";
constexpr double gib = 1024.0 * 1024 * 1024;
constexpr std::size_t most_tenants = 100;
constexpr std::size_t most_offenders = 5;

double ratio(double a, double b) { return b > 0 ? a / b : 0; }
double ratio(std::uint64_t a, std::uint64_t b) {
  return ratio(static_cast<double>(a), static_cast<double>(b));
}
Json whole(double bytes) { return static_cast<std::int64_t>(bytes); }

Json to_json(const Histogram& h) {
  return {{"count", h.count()},
          {"mean_ms", h.mean_s() * 1000},
          {"p50_ms", h.quantile_s(0.5) * 1000},
          {"p90_ms", h.quantile_s(0.9) * 1000},
          {"p99_ms", h.quantile_s(0.99) * 1000},
          {"max_ms", h.max_s() * 1000}};
}

Json to_json(const Latency& latency) {
  return {{"ttft", to_json(latency.ttft)},
          {"itl", to_json(latency.itl)},
          {"end_to_end", to_json(latency.end_to_end)},
          {"refusal", to_json(latency.refusal)}};
}

Json to_json(const Counts& c) {
  return {{"sent", c.sent},
          {"finished", c.finished},
          {"good", c.good},
          {"refused", c.refused},
          {"broken", c.broken},
          {"prompt_tokens", c.prompt_tokens},
          {"cached_tokens", c.cached_tokens},
          {"generated_tokens", c.generated_tokens}};
}

Json to_json(const client::Model& m) {
  if (m.name.empty()) return nullptr;
  return {{"name", m.name},
          {"version", m.version},
          {"architecture", m.architecture},
          {"quantization", m.quantization},
          {"context_tokens", m.context_tokens},
          {"vocabulary_tokens", m.vocabulary_tokens}};
}

Json to_json(const Gauge& gauge) {
  return {{"before_bytes", whole(gauge.first())},
          {"mean_bytes", whole(gauge.mean())},
          {"peak_bytes", whole(gauge.peak())},
          {"after_bytes", whole(gauge.last())}};
}

Json conditions(const Card& card, const RunOptions& options) {
  return {{"label", card.label},
          {"source", card.source},
          {"seed", options.seed},
          {"length_scale", card.length_scale},
          {"duration_s", options.duration_s},
          {"requests", options.requests},
          {"open_requests", options.open},
          {"keys", options.keys.size()},
          {"objectives",
           {{"ttft_ms", options.objectives.ttft_s * 1000},
            {"itl_ms", options.objectives.itl_s * 1000}}},
          {"model", to_json(options.model)},
          {"embedding_model", to_json(options.embedding_model)},
          {"server",
           {{"version", card.server_version},
            {"nodes", card.nodes},
            {"memory_limit_bytes", card.memory_limit_bytes}}},
          {"client",
           {{"version", card.client_version},
            {"processor", card.machine.processor},
            {"isa", card.machine.isa},
            {"cores", card.machine.cores},
            {"ram_bytes", card.machine.ram_bytes}}},
          {"prices",
           {{"machine_hour", card.prices.machine_hour},
            {"memory_gib_hour", card.prices.memory_gib_hour}}}};
}

Json memory(const MemoryLog& log, std::size_t active_tenants) {
  if (log.samples() == 0) return nullptr;
  Json components = Json::object();
  for (const auto& [name, gauge] : log.components()) components[name] = to_json(gauge);
  double own = 0;
  for (const auto& [name, tenant] : log.tenants()) {
    if (name != "shared") own += tenant.bytes.mean();
  }
  const auto active = static_cast<double>(active_tenants);
  return {{"samples", log.samples()},
          {"anonymous", to_json(log.anonymous())},
          {"rss", to_json(log.rss())},
          {"nodes_used", to_json(log.nodes_used())},
          {"unattributed", to_json(log.unattributed())},
          {"components", components},
          {"active_tenants", active_tenants},
          {"per_active_tenant_bytes", whole(ratio(log.nodes_used().mean(), active))},
          {"own_per_active_tenant_bytes", whole(ratio(own, active))}};
}

// By the cluster's own books, and by the samples of the ledger.
Json tenants(const Measured& m) {
  struct Row {
    client::TenantUsage usage;
    const MemoryLog::Tenant* memory = nullptr;
  };
  std::map<std::string, Row> rows;
  for (const auto& usage : m.usage) rows[usage.tenant].usage = usage;
  for (const auto& [name, tenant] : m.memory.tenants()) {
    const bool any = tenant.bytes.peak() > 0;
    if (name != "shared" && any) rows[name].memory = &tenant;
  }
  Json out = Json::array();
  for (const auto& [name, row] : rows) {
    const auto& u = row.usage;
    std::uint64_t refused = 0;
    for (const auto& [reason, count] : u.rejections) refused += count;
    const auto served = static_cast<double>(u.prompt_tokens + u.generated_tokens);
    out.push_back(
        {{"tenant", name},
         {"requests", u.requests},
         {"refused", refused},
         {"prompt_tokens", u.prompt_tokens},
         {"cached_tokens", u.cached_tokens},
         {"generated_tokens", u.generated_tokens},
         {"kv_byte_seconds", u.kv_byte_seconds},
         {"kv_byte_seconds_per_token", ratio(u.kv_byte_seconds, served)},
         {"mean_bytes", row.memory == nullptr ? Json(0) : whole(row.memory->bytes.mean())},
         {"peak_bytes", row.memory == nullptr ? Json(0) : whole(row.memory->bytes.peak())},
         {"refusals", u.rejections}});
  }
  return out;
}

// Those with the most of a field, the worst first.
Json worst(const Json& tenants, const char* field) {
  std::vector<std::pair<double, std::string>> all;
  for (const auto& t : tenants) {
    const auto value = t.at(field).get<double>();
    if (value > 0) all.emplace_back(-value, t.at("tenant").get<std::string>());
  }
  std::ranges::sort(all);
  Json out = Json::array();
  for (std::size_t i = 0; i < std::min(all.size(), most_offenders); ++i) {
    out.push_back({{"tenant", all[i].second}, {field, -all[i].first}});
  }
  return out;
}

Json traffic(const Card& card, const Measured& m) {
  Json out = Json::array();
  for (std::size_t i = 0; i < m.tally.traffic().size(); ++i) {
    const auto& group = m.tally.traffic()[i];
    const auto mix = card.source.find("mix");
    Json json{
        {"name", mix == card.source.end() ? Json("trace") : mix->at("traffic")[i].at("name")}};
    json.update(to_json(group.counts));
    json["latency"] = to_json(group.latency);
    out.push_back(std::move(json));
  }
  return out;
}

// As the client counts: by key, or by the traffic's number where all have one key.
Json senders(const RunOptions& options, const Tally& tally) {
  std::map<std::string, Counts> by_name;
  for (const auto& [tenant, c] : tally.tenants()) {
    auto& sum = by_name[options.keys.empty() ? fmt::format("tenant-{}", tenant)
                                             : options.keys[tenant % options.keys.size()].name];
    for (const auto field :
         {&Counts::sent, &Counts::finished, &Counts::refused, &Counts::broken, &Counts::good,
          &Counts::prompt_tokens, &Counts::cached_tokens, &Counts::generated_tokens}) {
      sum.*field += c.*field;
    }
  }
  std::vector<std::pair<std::string, Counts>> sorted(by_name.begin(), by_name.end());
  std::ranges::stable_sort(sorted, std::greater<>(), [](const auto& s) { return s.second.sent; });
  if (sorted.size() > most_tenants) sorted.resize(most_tenants);
  Json out = Json::array();
  for (const auto& [name, counts] : sorted) {
    Json json{{"sender", name}};
    json.update(to_json(counts));
    out.push_back(std::move(json));
  }
  return out;
}

Json to_json(const Quality& quality) {
  Json tasks = Json::array();
  std::uint32_t right = 0;
  for (const auto& task : quality.tasks) {
    right += task.right ? 1 : 0;
    tasks.push_back({{"prompt", task.prompt},
                     {"text", task.text},
                     {"tokens", task.tokens},
                     {"right", task.right}});
  }
  return {{"scored_tokens", quality.scored_tokens}, {"perplexity", quality.perplexity},
          {"bits_per_byte", quality.bits_per_byte}, {"tasks_right", right},
          {"tasks_total", quality.tasks.size()},    {"tasks", tasks}};
}

}  // namespace

double cost_of_1000(const Prices& prices, double memory_gib, double hours, std::uint64_t requests) {
  return ratio((prices.machine_hour + prices.memory_gib_hour * memory_gib) * hours * 1000,
               static_cast<double>(requests));
}

Json report(const Card& card, const RunOptions& options, const Measured& m) {
  const auto& counts = m.tally.all().counts;
  const auto active = std::ranges::count_if(m.usage, [](const auto& u) { return u.requests > 0; });
  const auto per_second = [&](std::uint64_t n) { return ratio(static_cast<double>(n), m.seconds); };
  const std::uint64_t due = counts.sent + m.tally.not_sent();
  Json requests{{"due", due}, {"not_sent", m.tally.not_sent()}};
  requests.update(to_json(counts));
  requests["refused_share"] = ratio(counts.refused + counts.broken + m.tally.not_sent(), due);
  requests["cut_to_context"] = m.cut;
  requests["refusals"] = m.tally.refusals();
  const Json of_tenants = tenants(m);
  const double peak_gib = m.memory.nodes_used().peak() / gib;
  return {{"schema", schema},
          {"unix_seconds", card.unix_seconds},
          {"seconds", m.seconds},
          {"fingerprint", fmt::format("{:016x}", m.fingerprint)},
          {"conditions", conditions(card, options)},
          {"requests", requests},
          {"latency", to_json(m.tally.all().latency)},
          {"client_lateness", to_json(m.tally.lateness())},
          {"throughput",
           {{"requests_per_second", per_second(counts.finished)},
            {"prompt_tokens_per_second", per_second(counts.prompt_tokens)},
            {"generated_tokens_per_second", per_second(counts.generated_tokens)}}},
          {"goodput",
           {{"requests_per_second", per_second(counts.good)}, {"share", ratio(counts.good, due)}}},
          {"memory", memory(m.memory, static_cast<std::size_t>(active))},
          {"cost",
           {{"per_1000_requests",
             cost_of_1000(card.prices, peak_gib, m.seconds / 3600, counts.finished)},
            {"hours", m.seconds / 3600},
            {"memory_gib", peak_gib}}},
          {"quality", card.quality ? to_json(*card.quality) : Json(nullptr)},
          {"traffic", traffic(card, m)},
          {"senders", senders(options, m.tally)},
          {"tenants", of_tenants},
          {"offenders",
           {{"kv_byte_seconds_per_token", worst(of_tenants, "kv_byte_seconds_per_token")},
            {"peak_bytes", worst(of_tenants, "peak_bytes")},
            {"refused", worst(of_tenants, "refused")}}}};
}

Result<Json> parse_scorecard(const std::string& text, const std::string& file) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("schema") || !json["schema"].is_string()) {
    return fail(
        ErrorCode::malformed,
        fmt::format("{} is not a scorecard in JSON; `plimsoll scorecard --save` writes one", file));
  }
  if (json["schema"] != schema) {
    return fail(ErrorCode::unsupported,
                fmt::format("{} has the schema {}; this version reads {}", file,
                            json["schema"].get<std::string>(), schema));
  }
  return json;
}

}  // namespace plimsoll::cli::scorecard
