// A scorecard for people.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/output.h"
#include "cli/scorecard/report.h"

namespace plimsoll::cli::scorecard {

namespace {

double number(const Json& json, const char* key) { return json.at(key).get<double>(); }
std::uint64_t count(const Json& json, const char* key) { return json.at(key).get<std::uint64_t>(); }
std::string word(const Json& json, const char* key) { return json.at(key).get<std::string>(); }
std::string bytes(const Json& json, const char* key) {
  return human_bytes(json.at(key).get<std::int64_t>());
}
std::string ms(const Json& json, const char* key) {
  return fmt::format("{:.1f}", number(json, key));
}

std::string head(const Json& card) {
  const auto& c = card.at("conditions");
  const auto& source = c.at("source");
  const auto& from = source.contains("mix") ? source.at("mix") : source.at("trace");
  const auto& objectives = c.at("objectives");
  const auto& client = c.at("client");
  std::vector<std::string> models;
  for (const char* key : {"model", "embedding_model"}) {
    if (!c.at(key).is_null()) models.push_back(word(c.at(key), "version"));
  }
  const auto label = word(c, "label");
  return (label.empty() ? "" : label + "\n") +
         fmt::format(
             "{} {}, seed {}, {:.1f} s, {}\nplimsoll {}, {} nodes with {}; client on {} cores, {}, "
             "{}\n"
             "objectives: ttft {:.0f} ms, itl {:.0f} ms; traffic fingerprint {}\n\n",
             source.contains("mix") ? "mix" : "trace",
             word(from, source.contains("mix") ? "name" : "file"), count(c, "seed"),
             number(card, "seconds"), utc(count(card, "unix_seconds")),
             word(c.at("server"), "version"), count(c.at("server"), "nodes"),
             fmt::join(models, ", "), count(client, "cores"), word(client, "isa"),
             bytes(client, "ram_bytes"), number(objectives, "ttft_ms"),
             number(objectives, "itl_ms"), word(card, "fingerprint"));
}

std::string requests(const Json& card) {
  const auto& r = card.at("requests");
  std::string text = fmt::format(
      "requests: {} due, {} finished, {} refused, {} broken off, {} not sent (too many open), {} "
      "cut "
      "to the context\n",
      count(r, "due"), count(r, "finished"), count(r, "refused"), count(r, "broken"),
      count(r, "not_sent"), count(r, "cut_to_context"));
  for (const auto& [reason, n] : r.at("refusals").items()) {
    text += fmt::format("  {} {}\n", n.get<std::uint64_t>(), reason);
  }
  const auto& t = card.at("throughput");
  const auto& g = card.at("goodput");
  return text + fmt::format(
                    "throughput: {:.2f} requests/s, {:.1f} prompt and {:.1f} generated tokens/s\n"
                    "goodput: {:.2f} requests/s within the objectives, {:.1f}% of those due\n\n",
                    number(t, "requests_per_second"), number(t, "prompt_tokens_per_second"),
                    number(t, "generated_tokens_per_second"), number(g, "requests_per_second"),
                    100 * number(g, "share"));
}

std::string latency(const Json& card) {
  Table table({{"LATENCY, MS"},
               {"COUNT", true},
               {"MEAN", true},
               {"P50", true},
               {"P90", true},
               {"P99", true},
               {"MAX", true}});
  const auto add = [&](const std::string& name, const Json& h) {
    if (count(h, "count") == 0) return;
    table.add({name, std::to_string(count(h, "count")), ms(h, "mean_ms"), ms(h, "p50_ms"),
               ms(h, "p90_ms"), ms(h, "p99_ms"), ms(h, "max_ms")});
  };
  const auto add_all = [&](const std::string& prefix, const Json& l) {
    add(prefix + "time to first token", l.at("ttft"));
    add(prefix + "between tokens", l.at("itl"));
    add(prefix + "end to end", l.at("end_to_end"));
    add(prefix + "to a refusal", l.at("refusal"));
  };
  add_all("", card.at("latency"));
  add("client began late", card.at("client_lateness"));
  if (card.at("traffic").size() > 1) {
    for (const auto& t : card.at("traffic")) add_all(word(t, "name") + ": ", t.at("latency"));
  }
  return table.text() + "\n";
}

std::string memory(const Json& card) {
  const auto& m = card.at("memory");
  if (m.is_null()) return "";
  Table table({{"MEMORY"}, {"BEFORE", true}, {"MEAN", true}, {"PEAK", true}, {"AFTER", true}});
  const auto add = [&](const std::string& name, const Json& g) {
    table.add({name, bytes(g, "before_bytes"), bytes(g, "mean_bytes"), bytes(g, "peak_bytes"),
               bytes(g, "after_bytes")});
  };
  add("used by the nodes", m.at("nodes_used"));
  add("anonymous", m.at("anonymous"));
  add("resident", m.at("rss"));
  for (const auto& [name, gauge] : m.at("components").items()) add("  charged to " + name, gauge);
  add("  unattributed", m.at("unattributed"));
  return table.text() + fmt::format("per active tenant ({}): {}; charged to it alone {}\n\n",
                                    count(m, "active_tenants"), bytes(m, "per_active_tenant_bytes"),
                                    bytes(m, "own_per_active_tenant_bytes"));
}

std::string tenants(const Json& card) {
  Table table({{"TENANT"},
               {"REQUESTS", true},
               {"REFUSED", true},
               {"TOKENS", true},
               {"CACHED", true},
               {"MEAN", true},
               {"PEAK", true},
               {"KV BYTE-S/TOKEN", true}});
  for (const auto& t : card.at("tenants")) {
    table.add({word(t, "tenant"), std::to_string(count(t, "requests")),
               std::to_string(count(t, "refused")),
               std::to_string(count(t, "prompt_tokens") + count(t, "generated_tokens")),
               std::to_string(count(t, "cached_tokens")), bytes(t, "mean_bytes"),
               bytes(t, "peak_bytes"),
               fmt::format("{:.0f}", number(t, "kv_byte_seconds_per_token"))});
  }
  std::string text = card.at("tenants").empty() ? "" : table.text() + "\n";
  Table worst({{"BIGGEST OFFENDERS"}, {"1"}, {"2"}, {"3"}, {"4"}, {"5"}});
  bool any = false;
  for (const auto& [field, title] :
       {std::pair{"kv_byte_seconds_per_token", "KV byte-seconds per token"},
        std::pair{"peak_bytes", "peak bytes"}, std::pair{"refused", "refused requests"}}) {
    std::vector<std::string> row{title};
    for (const auto& o : card.at("offenders").at(field)) {
      const double value = number(o, field);
      row.push_back(fmt::format("{} {}", word(o, "tenant"),
                                std::string_view(field) == "peak_bytes"
                                    ? human_bytes(static_cast<std::int64_t>(value))
                                    : fmt::format("{:.0f}", value)));
    }
    any = any || row.size() > 1;
    row.resize(6);
    worst.add(std::move(row));
  }
  return text + (any ? worst.text() + "\n" : "");
}

std::string rest(const Json& card) {
  std::string text;
  if (const auto& q = card.at("quality"); !q.is_null()) {
    text += fmt::format(
        "quality: perplexity {:.3f} over {} tokens ({:.4f} bits a byte), {} of {} tasks right\n",
        number(q, "perplexity"), count(q, "scored_tokens"), number(q, "bits_per_byte"),
        count(q, "tasks_right"), count(q, "tasks_total"));
  }
  const auto& prices = card.at("conditions").at("prices");
  const auto& cost = card.at("cost");
  if (number(prices, "machine_hour") > 0 || number(prices, "memory_gib_hour") > 0) {
    text += fmt::format(
        "cost of 1,000 requests: {:.6f} = ({} + {} × {:.3f} GiB at the peak) × {:.6f} h × 1,000 / "
        "{} "
        "finished\n",
        number(cost, "per_1000_requests"), number(prices, "machine_hour"),
        number(prices, "memory_gib_hour"), number(cost, "memory_gib"), number(cost, "hours"),
        count(card.at("requests"), "finished"));
  }
  return text;
}

}  // namespace

Result<std::string> table(const Json& card) {
  try {
    return head(card) + requests(card) + latency(card) + memory(card) + tenants(card) + rest(card);
  } catch (const Json::exception& e) {
    return fail(ErrorCode::malformed, fmt::format("the scorecard lacks a field: {}", e.what()));
  }
}

}  // namespace plimsoll::cli::scorecard
