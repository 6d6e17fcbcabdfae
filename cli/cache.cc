// plimsoll cache: what lies in the nodes' caches on disk, whose, and for how long.
#include <fmt/format.h>

#include <algorithm>

#include "cli/confirm.h"
#include "cli/exit_codes.h"
#include "cli/quantity.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using client::CacheRow;
using client::NodeCache;
using client::Operator;

constexpr const char* as_configured = "default";

std::optional<double> hit_rate(const CacheRow& row) {
  const auto asked = row.hits_total + row.misses_total;
  if (asked == 0) return std::nullopt;
  return static_cast<double>(row.hits_total) / static_cast<double>(asked);
}

std::string size_of(std::uint64_t bytes) { return human_bytes(static_cast<std::int64_t>(bytes)); }

Json to_json(const client::Error& error) {
  return {{"code", error.code}, {"message", error.what()}};
}

Json to_json(const CacheRow& row) {
  Json json{{"tenant", row.tenant},
            {"kind", row.kind},
            {"bytes", row.bytes},
            {"quota_bytes", row.quota_bytes},
            {"ttl_ms", row.ttl.count()},
            {"entries", row.entries},
            {"hits_total", row.hits_total},
            {"misses_total", row.misses_total},
            {"evicted_total", row.evicted_total},
            {"expired_total", row.expired_total},
            {"purged_total", row.purged_total},
            {"damaged_total", row.damaged_total},
            {"refused_total", row.refused_total},
            {"dropped_total", row.dropped_total}};
  if (const auto rate = hit_rate(row)) json["hit_rate"] = *rate;
  return json;
}

Json to_json(const std::vector<NodeCache>& nodes) {
  Json json = Json::array();
  for (const auto& node : nodes) {
    if (node.error) {
      json.push_back({{"node", node.node}, {"error", to_json(*node.error)}});
      continue;
    }
    Json rows = Json::array();
    for (const auto& row : node.rows) rows.push_back(to_json(row));
    json.push_back({{"node", node.node},
                    {"bytes", node.bytes},
                    {"limit_bytes", node.limit_bytes},
                    {"buffered_bytes", node.buffered_bytes},
                    {"index_bytes", node.index_bytes},
                    {"table_bytes", node.table_bytes},
                    {"trouble", node.trouble},
                    {"rows", std::move(rows)}});
  }
  return json;
}

std::string nodes_text(const std::vector<NodeCache>& nodes) {
  Table table({{"NODE"},
               {"ON DISK", true},
               {"OF", true},
               {"BUFFERED", true},
               {"INDEX", true},
               {"TABLES", true},
               {"STATE"}});
  for (const auto& node : nodes) {
    if (node.error) {
      table.add({node.node, "-", "-", "-", "-", "-", node.error->what()});
    } else {
      table.add({node.node, size_of(node.bytes), size_of(node.limit_bytes),
                 size_of(node.buffered_bytes), size_of(node.index_bytes), size_of(node.table_bytes),
                 node.trouble.empty() ? "ok" : node.trouble});
    }
  }
  return table.text();
}

std::string rows_text(const std::vector<NodeCache>& nodes) {
  Table table({{"NODE"},
               {"TENANT"},
               {"KIND"},
               {"BYTES", true},
               {"QUOTA", true},
               {"TTL", true},
               {"ENTRIES", true},
               {"HITS", true},
               {"MISSES", true},
               {"HIT RATE", true},
               {"EVICTED", true},
               {"EXPIRED", true},
               {"PURGED", true},
               {"DAMAGED", true}});
  for (const auto& node : nodes) {
    for (const auto& row : node.rows) {
      const auto rate = hit_rate(row);
      table.add({node.node, row.tenant, row.kind, size_of(row.bytes), size_of(row.quota_bytes),
                 show_quantity(static_cast<std::uint64_t>(row.ttl.count()), time_units),
                 std::to_string(row.entries), std::to_string(row.hits_total),
                 std::to_string(row.misses_total), rate ? fmt::format("{:.1f}%", *rate * 100) : "-",
                 std::to_string(row.evicted_total), std::to_string(row.expired_total),
                 std::to_string(row.purged_total), std::to_string(row.damaged_total)});
    }
  }
  return table.text();
}

struct Options {
  std::string node, tenant, kind, value;
  bool all = false;
  bool watch = false;
  std::chrono::milliseconds older_than{0};
};
using Shared = std::shared_ptr<Options>;

int exit_code_of(const std::vector<NodeCache>& nodes) {
  const bool failed = std::ranges::any_of(nodes, [](const auto& node) { return !!node.error; });
  return failed ? exit_failure : exit_ok;
}

CLI::Option* add_kind_option(CLI::App& verb, std::string& kind, const std::string& about) {
  return verb.add_option("--kind", kind, about)
      ->check(CLI::IsMember({"prefix", "embedding", "tokens"}))
      ->option_text("prefix|embedding|tokens");
}
void add_node_option(CLI::App& verb, std::string& node) {
  verb.add_option("--node", node, "only there; on all nodes otherwise");
}

void add_status(CLI::App& family, Context& context, const Shared& options) {
  auto* verb =
      add_operator_verb(family, context, "status", "each node's cache, by tenant and kind",
                        [options, &context](Operator& cluster) {
                          return show(context.remote, options->watch, [&]() -> View {
                            const auto nodes = cluster.caches(options->node);
                            return {to_json(nodes), nodes_text(nodes) + "\n" + rows_text(nodes)};
                          });
                        });
  add_watch_option(*verb, options->watch);
  add_node_option(*verb, options->node);
}

// Whether a row is among what is to be purged, but for its age.
bool is_meant(const CacheRow& row, const Options& options) {
  return (options.all || row.tenant == options.tenant) &&
         (options.kind.empty() || row.kind == options.kind);
}

// "Purge acme's prefixes older than 1h on node-a: of 12 entries, 3.0 MiB."
std::string purge_question(const std::vector<NodeCache>& nodes, const Options& options) {
  std::uint64_t bytes = 0, entries = 0;
  std::vector<std::string> names;
  for (const auto& node : nodes) {
    names.push_back(node.node);
    for (const auto& row : node.rows) {
      if (!is_meant(row, options)) continue;
      bytes += row.bytes;
      entries += row.entries;
    }
  }
  const auto age = static_cast<std::uint64_t>(options.older_than.count());
  return fmt::format(
      "Purge {} of {} from the disks of {}: {}{} entries, {}.",
      options.kind.empty() ? "all kinds of entries" : options.kind + " entries",
      options.all ? "all tenants" : options.tenant, fmt::join(names, ", "),
      age == 0 ? "" : "what is older than " + show_quantity(age, time_units) + " of ", entries,
      size_of(bytes));
}

int purge(Operator& cluster, Context& context, const Options& options) {
  if (!confirmed(context, [&] { return purge_question(cluster.caches(options.node), options); })) {
    return context.exit_code;
  }
  const auto nodes = cluster.purge_caches(
      {options.tenant, options.all, options.kind, options.older_than}, options.node);
  std::uint64_t entries = 0;
  Json answers = Json::array();
  std::string text;
  for (const auto& node : nodes) {
    Json answer{{"node", node.node}, {"entries", node.purged_entries}};
    if (node.error) answer["error"] = to_json(*node.error);
    answers.push_back(std::move(answer));
    entries += node.purged_entries;
    text += node.error ? fmt::format("{}: {}\n", node.node, node.error->what())
                       : fmt::format("{}: {} entries removed\n", node.node, node.purged_entries);
  }
  show(context.remote, false, [&]() -> View {
    return {{{"entries", entries}, {"nodes", answers}}, text};
  });
  return exit_code_of(nodes);
}

void add_purge(CLI::App& family, Context& context, const Shared& options) {
  auto* verb = add_operator_verb(
      family, context, "purge", "remove entries, and their bytes from the disk",
      [options, &context](Operator& cluster) { return purge(cluster, context, *options); });
  auto* whose = verb->add_option_group("whose");
  whose->add_option("--tenant", options->tenant, "of this tenant");
  whose->add_flag("--all", options->all, "of all tenants");
  whose->require_option(1);
  add_kind_option(*verb, options->kind, "only these");
  add_time_option(*verb, "--older-than", options->older_than, "only what was stored before");
  add_node_option(*verb, options->node);
  add_yes_option(*verb, context);
}

void add_set_quota(CLI::App& family, Context& context, const Shared& options) {
  auto* verb = add_operator_verb(
      family, context, "set-quota",
      "what a tenant may have on each node's disk; part of its record: it stays so",
      [options, &context](Operator& cluster) {
        std::optional<std::uint64_t> bytes;
        if (options->value != as_configured) bytes = *parse_bytes(options->value);
        cluster.set_cache_quota(options->tenant, bytes);
        return done(context.remote,
                    {{"tenant", options->tenant}, {"quota_bytes", bytes ? Json(*bytes) : Json()}},
                    bytes ? fmt::format("{} may have {} on each node's disk", options->tenant,
                                        show_quantity(*bytes, byte_units))
                          : options->tenant +
                                " may have on each node's disk what the node's configuration "
                                "says");
      });
  verb->add_option("--tenant", options->tenant)->required();
  verb->add_option("bytes", options->value, "0: nothing; default: as each node is configured")
      ->required()
      ->option_text("SIZE|default")
      ->check([](const std::string& text) {
        const auto good = parse_bytes(text);
        return text == as_configured || good ? std::string() : good.error().message;
      });
}

int set_ttl(Operator& cluster, Context& context, const Options& options) {
  std::optional<std::chrono::milliseconds> ttl;
  if (options.value != as_configured) {
    ttl = std::chrono::milliseconds(*parse_time_ms(options.value));
  }
  Json document{{"kind", options.kind}, {"ttl_ms", ttl ? Json(ttl->count()) : Json()}};
  const auto how_long = ttl ? "for " + options.value : std::string("as long as it is configured");
  if (!options.tenant.empty()) {
    cluster.set_cache_ttl(options.tenant, options.kind, ttl);
    document["tenant"] = options.tenant;
    return done(
        context.remote, document,
        fmt::format("{} entries of {} are kept {}", options.kind, options.tenant, how_long));
  }
  const auto nodes = cluster.set_default_cache_ttl(options.kind, ttl, options.node);
  document["nodes"] = Json::array();
  std::string text;
  for (const auto& node : nodes) {
    Json answer{{"node", node.node}};
    if (node.error) answer["error"] = to_json(*node.error);
    document["nodes"].push_back(std::move(answer));
    text += node.error ? fmt::format("{}: {}\n", node.node, node.error->what())
                       : fmt::format("{}: {} entries are kept {}, until it is started again\n",
                                     node.node, options.kind, how_long);
  }
  show(context.remote, false, [&]() -> View { return {document, text}; });
  return exit_code_of(nodes);
}

void add_set_ttl(CLI::App& family, Context& context, const Shared& options) {
  auto* verb = add_operator_verb(
      family, context, "set-ttl",
      "how long entries are kept: of a tenant, as part of its record; or of a node's other "
      "tenants, "
      "until the node is started again",
      [options, &context](Operator& cluster) { return set_ttl(cluster, context, *options); });
  add_kind_option(*verb, options->kind, "of what")->required();
  auto* tenant = verb->add_option("--tenant", options->tenant, "of this tenant, on all nodes");
  verb->add_option("--node", options->node, "of tenants without one of their own, only there")
      ->excludes(tenant);
  verb->add_option(
          "ttl", options->value,
          "30 days (720h) at most; 0s: none is stored; default: as each node is configured")
      ->required()
      ->option_text("TIME|default")
      ->check([](const std::string& text) {
        const auto good = parse_time_ms(text);
        return text == as_configured || good ? std::string() : good.error().message;
      });
}

}  // namespace

void add_cache(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  auto* family = app.add_subcommand("cache", "the nodes' caches on disk (operator's key)");
  family->require_subcommand(1);
  add_status(*family, context, options);
  add_purge(*family, context, options);
  add_set_quota(*family, context, options);
  add_set_ttl(*family, context, options);
}

}  // namespace plimsoll::cli
