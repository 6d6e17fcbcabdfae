#include "cli/scorecard/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "cli/output.h"

namespace plimsoll::cli::scorecard {

namespace {

struct Metric {
  const char* name;
  const char* path;
  bool more_is_better = false;
};
// The agreement of the tasks' answers is of both scorecards together, and comes beside these.
constexpr const char* agreement_name = "task_agreement";
const std::vector<Metric> metrics = {
    {"p50_ttft", "/latency/ttft/p50_ms"},
    {"p90_ttft", "/latency/ttft/p90_ms"},
    {"p99_ttft", "/latency/ttft/p99_ms"},
    {"p50_itl", "/latency/itl/p50_ms"},
    {"p90_itl", "/latency/itl/p90_ms"},
    {"p99_itl", "/latency/itl/p99_ms"},
    {"p50_end_to_end", "/latency/end_to_end/p50_ms"},
    {"p90_end_to_end", "/latency/end_to_end/p90_ms"},
    {"p99_end_to_end", "/latency/end_to_end/p99_ms"},
    {"p99_refusal", "/latency/refusal/p99_ms"},
    {"requests_per_second", "/throughput/requests_per_second", true},
    {"prompt_tokens_per_second", "/throughput/prompt_tokens_per_second", true},
    {"generated_tokens_per_second", "/throughput/generated_tokens_per_second", true},
    {"goodput", "/goodput/requests_per_second", true},
    {"good_share", "/goodput/share", true},
    {"refused_share", "/requests/refused_share"},
    {"cached_tokens", "/requests/cached_tokens", true},
    {"before_nodes_used", "/memory/nodes_used/before_bytes"},
    {"peak_nodes_used", "/memory/nodes_used/peak_bytes"},
    {"mean_nodes_used", "/memory/nodes_used/mean_bytes"},
    {"after_nodes_used", "/memory/nodes_used/after_bytes"},
    {"peak_anonymous", "/memory/anonymous/peak_bytes"},
    {"mean_anonymous", "/memory/anonymous/mean_bytes"},
    {"peak_unattributed", "/memory/unattributed/peak_bytes"},
    {"peak_kv", "/memory/components/kv/peak_bytes"},
    {"per_active_tenant", "/memory/per_active_tenant_bytes"},
    {"cost", "/cost/per_1000_requests"},
    {"perplexity", "/quality/perplexity"},
    {"bits_per_byte", "/quality/bits_per_byte"},
    {"tasks_right", "/quality/tasks_right", true},
};

std::string unit_of(std::string_view path) {
  for (const char* unit : {"ms", "bytes"}) {
    if (path.ends_with(std::string("_") + unit)) return unit;
  }
  return {};
}

std::string show_value(double value, const std::string& unit) {
  if (unit == "bytes") return human_bytes(static_cast<std::int64_t>(value));
  return unit == "ms" ? fmt::format("{:.1f} ms", value) : fmt::format("{:.6g}", value);
}

double ratio(double before, double after) {
  if (before == after) return 1;
  return before == 0 ? std::numeric_limits<double>::infinity() : after / before;
}

const Json* find(const Json& card, const std::string& path) {
  const Json::json_pointer pointer(path);
  if (!card.contains(pointer)) return nullptr;
  const auto& value = card.at(pointer);
  return value.is_number() ? &value : nullptr;
}

std::vector<TaskAnswer> answers(const Json& card) {
  std::vector<TaskAnswer> out;
  const auto quality = card.find("quality");
  if (quality == card.end() || quality->is_null()) return out;
  for (const auto& task : quality->at("tasks")) {
    out.push_back({task.at("prompt").get<std::string>(), task.at("text").get<std::string>(),
                   task.at("tokens").get<std::vector<std::int32_t>>(),
                   task.at("right").get<bool>()});
  }
  return out;
}

// Every leaf by its path, with dots.
void flatten(const Json& json, const std::string& path, std::map<std::string, std::string>& out) {
  if (!json.is_structured() || json.empty()) {
    out[path] = json.is_string() ? json.get<std::string>() : json.dump();
    return;
  }
  for (const auto& [key, value] : json.items()) {
    flatten(value, path.empty() ? key : path + "." + key, out);
  }
}

}  // namespace

Result<Comparison> compare(const Json& before, const Json& after) {
  try {
    Comparison out;
    for (const auto& metric : metrics) {
      const Json* a = find(before, metric.path);
      const Json* b = find(after, metric.path);
      if (a == nullptr || b == nullptr) continue;
      const auto x = a->get<double>();
      const auto y = b->get<double>();
      if (x != 0 || y != 0) {
        out.metrics.push_back(
            {metric.name, unit_of(metric.path), metric.more_is_better, x, y, ratio(x, y)});
      }
    }
    const auto a = answers(before);
    const auto b = answers(after);
    if (!a.empty() && !b.empty()) {
      const double share = agreement(a, b);
      out.metrics.push_back({agreement_name, "", true, 1, share, share});
    }
    std::map<std::string, std::string> was;
    std::map<std::string, std::string> is;
    flatten(before.at("conditions"), "", was);
    flatten(after.at("conditions"), "", is);
    was["traffic fingerprint"] = before.at("fingerprint").get<std::string>();
    is["traffic fingerprint"] = after.at("fingerprint").get<std::string>();
    for (const auto& [path, value] : was) is.try_emplace(path, "absent");
    for (const auto& [path, value] : is) {
      const auto found = was.find(path);
      const std::string old = found == was.end() ? "absent" : found->second;
      if (old != value) out.conditions.push_back(fmt::format("{}: {} -> {}", path, old, value));
    }
    return out;
  } catch (const Json::exception& e) {
    return fail(ErrorCode::malformed, fmt::format("a scorecard lacks a field: {}", e.what()));
  }
}

Result<Threshold> parse_threshold(const std::string& text) {
  const auto sign = text.find_first_of("<>");
  Threshold out;
  out.text = text;
  bool good = sign != std::string::npos;
  if (good) {
    out.metric = text.substr(0, sign);
    out.above = text[sign] == '>';
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + sign + 1, end, out.bound);
    good = error == std::errc{} && at == end && std::isfinite(out.bound);
  }
  if (!good) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' is not understood; write it like p99_ttft>1.2", text));
  }
  std::vector<std::string> names;
  for (const auto& metric : metrics) names.emplace_back(metric.name);
  names.emplace_back(agreement_name);
  if (std::ranges::find(names, out.metric) == names.end()) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("no metric '{}'; there are {}", out.metric, fmt::join(names, ", ")));
  }
  return out;
}

Result<bool> passed(const Threshold& threshold, const Comparison& comparison) {
  const auto found = std::ranges::find(comparison.metrics, threshold.metric, &Difference::metric);
  if (found == comparison.metrics.end()) {
    return fail(
        ErrorCode::failed_precondition,
        fmt::format("{}: the scorecards do not both have {}", threshold.text, threshold.metric));
  }
  return threshold.above ? found->ratio > threshold.bound : found->ratio < threshold.bound;
}

Json to_json(const Comparison& comparison) {
  Json metrics = Json::array();
  for (const auto& m : comparison.metrics) {
    metrics.push_back({{"metric", m.metric},
                       {"unit", m.unit},
                       {"before", m.before},
                       {"after", m.after},
                       {"ratio", std::isfinite(m.ratio) ? Json(m.ratio) : Json(nullptr)},
                       {"more_is_better", m.more_is_better}});
  }
  return {{"metrics", metrics}, {"conditions", comparison.conditions}};
}

std::string table(const Comparison& comparison) {
  Table table({{"METRIC"}, {"BEFORE", true}, {"AFTER", true}, {"RATIO", true}, {""}});
  for (const auto& m : comparison.metrics) {
    const double better = m.more_is_better ? m.ratio : 1 / m.ratio;
    constexpr double same = 0.02;
    table.add({m.metric, show_value(m.before, m.unit), show_value(m.after, m.unit),
               fmt::format("{:.3f}", m.ratio),
               better > 1 + same   ? "better"
               : better < 1 - same ? "worse"
                                   : ""});
  }
  std::string text = table.text() + "\n";
  if (comparison.conditions.empty()) return text + "The conditions were the same.\n";
  text += "The conditions differ:\n";
  for (const auto& line : comparison.conditions) text += "  " + line + "\n";
  return text;
}

}  // namespace plimsoll::cli::scorecard
