// plimsoll memory: where every byte is, and whose.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using client::Memory;
using client::MemoryRow;
using client::NodeMemory;

enum class By { component, tenant, model, endpoint };
constexpr std::size_t most_columns = 6;

Json to_json(const client::Stalls& stalls) {
  return {{"some_avg10", stalls.some_avg10},
          {"some_avg60", stalls.some_avg60},
          {"full_avg10", stalls.full_avg10},
          {"full_avg60", stalls.full_avg60}};
}

Json to_json(const client::MemoryPhases& phases) {
  Json json{{"observed_seconds", phases.observed_seconds},
            {"cold_start_peak_bytes", phases.cold_start_peak_bytes}};
  if (phases.steady_bytes) json["steady_bytes"] = *phases.steady_bytes;
  if (phases.burst_bytes) json["burst_bytes"] = *phases.burst_bytes;
  if (phases.growth_bytes_per_second) {
    json["growth_bytes_per_second"] = *phases.growth_bytes_per_second;
  }
  return json;
}

void add_figures(const Memory& memory, Json& json) {
  json["rss_bytes"] = memory.rss_bytes;
  json["pss_bytes"] = memory.pss_bytes;
  json["anonymous_bytes"] = memory.anonymous_bytes;
  json["file_bytes"] = memory.file_bytes;
  json["swap_bytes"] = memory.swap_bytes;
  json["ledger_anonymous_bytes"] = memory.ledger_anonymous_bytes;
  json["ledger_touched_bytes"] = memory.ledger_touched_bytes;
  json["ledger_mapped_bytes"] = memory.ledger_mapped_bytes;
  json["unattributed_bytes"] = memory.unattributed_bytes;
  const auto add = [&](const char* key, const auto& value) {
    if (value) json[key] = *value;
  };
  if (memory.cgroup_version > 0) json["cgroup_version"] = memory.cgroup_version;
  add("cgroup_current_bytes", memory.cgroup_current_bytes);
  add("cgroup_high_bytes", memory.cgroup_high_bytes);
  add("cgroup_limit_bytes", memory.cgroup_limit_bytes);
  add("high_hits", memory.high_hits);
  add("limit_hits", memory.limit_hits);
  add("ooms", memory.ooms);
  add("under_oom", memory.under_oom);
  add("oom_kills", memory.oom_kills);
  add("allocator_allocated_bytes", memory.allocator_allocated_bytes);
  add("allocator_active_bytes", memory.allocator_active_bytes);
  add("allocator_resident_bytes", memory.allocator_resident_bytes);
  add("allocator_metadata_bytes", memory.allocator_metadata_bytes);
  add("pressure_some_avg10", memory.pressure_some_avg10);
  if (memory.group_pressure) json["group_pressure"] = to_json(*memory.group_pressure);
  if (memory.host_pressure) json["host_pressure"] = to_json(*memory.host_pressure);
  if (memory.phases) json["phases"] = to_json(*memory.phases);
}

// What can be added up. What belongs to one machine is left to that node.
Memory sum(const std::vector<NodeMemory>& nodes) {
  if (nodes.size() == 1) return nodes[0].memory;
  Memory all;
  const auto add = [](std::optional<std::int64_t>& to, const std::optional<std::int64_t>& from) {
    if (from) to = to.value_or(0) + *from;
  };
  for (const auto& [node, age, memory] : nodes) {
    all.rows.insert(all.rows.end(), memory.rows.begin(), memory.rows.end());
    all.rss_bytes += memory.rss_bytes;
    all.pss_bytes += memory.pss_bytes;
    all.anonymous_bytes += memory.anonymous_bytes;
    all.file_bytes += memory.file_bytes;
    all.swap_bytes += memory.swap_bytes;
    all.ledger_anonymous_bytes += memory.ledger_anonymous_bytes;
    all.ledger_touched_bytes += memory.ledger_touched_bytes;
    all.ledger_mapped_bytes += memory.ledger_mapped_bytes;
    all.unattributed_bytes += memory.unattributed_bytes;
    add(all.oom_kills, memory.oom_kills);
    add(all.allocator_allocated_bytes, memory.allocator_allocated_bytes);
    add(all.allocator_active_bytes, memory.allocator_active_bytes);
    add(all.allocator_resident_bytes, memory.allocator_resident_bytes);
    add(all.allocator_metadata_bytes, memory.allocator_metadata_bytes);
  }
  return all;
}

// The sums over all nodes, every row with its node, and each node's own figures.
Json to_json(const std::vector<NodeMemory>& nodes) {
  Json json{{"rows", Json::array()}};
  for (const auto& [node, age, memory] : nodes) {
    for (const auto& row : memory.rows) {
      json["rows"].push_back({{"node", node},
                              {"component", row.component},
                              {"model", row.model},
                              {"tenant", row.tenant},
                              {"endpoint", row.endpoint},
                              {"kind", row.kind},
                              {"bytes", row.bytes},
                              {"peak_bytes", row.peak_bytes},
                              {"resident_bytes", row.resident_bytes}});
    }
  }
  add_figures(sum(nodes), json);
  json["nodes"] = Json::array();
  for (const auto& [node, age, memory] : nodes) {
    Json own{{"node", node}, {"age_seconds", age}};
    add_figures(memory, own);
    json["nodes"].push_back(std::move(own));
  }
  return json;
}

std::string key_of(const MemoryRow& row, By by) {
  const std::string& key = by == By::component ? row.component
                           : by == By::tenant  ? row.tenant
                           : by == By::model   ? row.model
                                               : row.endpoint;
  return key.empty() ? "-" : key;
}

// One line a group, a column for each of the largest tenants (or components, when grouped by
// tenant), then what is mapped.
std::string rows_text(const std::vector<MemoryRow>& rows, By by) {
  const By across = by == By::tenant ? By::component : By::tenant;
  std::map<std::string, std::int64_t> sizes;
  for (const auto& row : rows) {
    if (row.kind != "mapped" && row.bytes > 0) sizes[key_of(row, across)] += row.bytes;
  }
  std::vector<std::pair<std::int64_t, std::string>> largest;
  for (const auto& [column, bytes] : sizes) largest.emplace_back(-bytes, column);
  std::ranges::sort(largest);
  std::set<std::string> columns;
  for (std::size_t i = 0; i < std::min(largest.size(), most_columns); ++i) {
    columns.insert(largest[i].second);
  }

  struct Group {
    std::map<std::string, std::int64_t> columns;
    std::int64_t charged = 0, others = 0, touched = 0, peak = 0, mapped = 0, cached = 0;
  };
  std::map<std::string, Group> groups;
  for (const auto& row : rows) {
    if (row.bytes == 0 && row.peak_bytes == 0) continue;
    Group& group = groups[key_of(row, by)];
    if (row.kind == "mapped") {
      group.mapped += row.bytes;
      group.cached += row.resident_bytes;
      continue;
    }
    const auto column = key_of(row, across);
    (columns.contains(column) ? group.columns[column] : group.others) += row.bytes;
    group.charged += row.bytes;
    group.touched += row.resident_bytes;
    group.peak += row.peak_bytes;
  }

  constexpr const char* titles[] = {"COMPONENT", "TENANT", "MODEL", "ENDPOINT"};
  std::vector<Table::Column> head{{titles[static_cast<int>(by)]}};
  for (const auto& column : columns) head.push_back({column, true});
  const bool others = sizes.size() > columns.size();
  if (others) head.push_back({"OTHERS", true});
  for (const auto* title : {"CHARGED", "PEAK", "TOUCHED", "MAPPED", "IN CACHE"})
    head.push_back({title, true});
  Table table(head);
  const auto cell = [](std::int64_t bytes) { return bytes == 0 ? "-" : human_bytes(bytes); };
  for (auto& [name, group] : groups) {
    std::vector<std::string> line{name};
    for (const auto& column : columns) line.push_back(cell(group.columns[column]));
    if (others) line.push_back(cell(group.others));
    line.insert(line.end(), {cell(group.charged), cell(group.peak), cell(group.touched),
                             cell(group.mapped), cell(group.cached)});
    table.add(std::move(line));
  }
  return table.text();
}

std::string share(std::int64_t part, std::uint64_t whole) {
  if (whole == 0) return "";
  return fmt::format("{:.1f}%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string cgroup_note(const Memory& memory) {
  std::string note =
      memory.cgroup_limit_bytes ? "of " + human_bytes(*memory.cgroup_limit_bytes) : "no limit";
  if (memory.cgroup_high_bytes) note += ", high " + human_bytes(*memory.cgroup_high_bytes);
  const auto count = [&](const char* what, const std::optional<std::int64_t>& hits) {
    if (hits) note += fmt::format(", {} {}", what, *hits);
  };
  count("high hits", memory.high_hits);
  count("limit hits", memory.limit_hits);
  count("out of memory", memory.ooms);
  if (memory.under_oom.value_or(false)) note += ", waits for memory now";
  return note;
}

std::string growth_text(double bytes_per_second) {
  return fmt::format("{} an hour", human_bytes(static_cast<std::int64_t>(bytes_per_second * 3600)));
}

// What the kernel and the allocator say beside what the ledger says.
std::string figures_text(const Memory& memory) {
  Table table({{""}, {"", true}, {""}});
  const auto line = [&](const char* name, auto bytes, const std::string& note = "") {
    table.add({name, human_bytes(static_cast<std::int64_t>(bytes)), note});
  };
  std::int64_t weights = 0;
  std::int64_t cached = 0;
  for (const auto& row : memory.rows) {
    if (row.component != "weights" || row.kind != "mapped") continue;
    weights += row.bytes;
    cached += row.resident_bytes;
  }
  line("charged", memory.ledger_anonymous_bytes, "reserved for its owners, touched or not");
  line("touched", memory.ledger_touched_bytes);
  line("unattributed", memory.unattributed_bytes,
       share(memory.unattributed_bytes, memory.anonymous_bytes) + " of anonymous");
  line("anonymous", memory.anonymous_bytes, "what the kernel cannot reclaim");
  if (memory.swap_bytes > 0) line("swapped", memory.swap_bytes);
  line("file-backed", memory.file_bytes, "weights and code: reclaimable");
  line("weights", cached, "of " + human_bytes(weights) + " in page cache");
  line("RSS", memory.rss_bytes);
  line("PSS", memory.pss_bytes, "shared pages divided by their users");
  if (memory.cgroup_current_bytes) {
    line("cgroup", *memory.cgroup_current_bytes, cgroup_note(memory));
  }
  if (memory.allocator_active_bytes && memory.allocator_allocated_bytes) {
    line("heap", *memory.allocator_active_bytes,
         human_bytes(*memory.allocator_allocated_bytes) + " of it allocated");
  }
  if (const auto& phases = memory.phases) {
    line("cold start", phases->cold_start_peak_bytes, "peak of anonymous memory");
    if (phases->steady_bytes) line("steady", *phases->steady_bytes, "median since the warm-up");
    if (phases->burst_bytes) line("burst", *phases->burst_bytes, "the highest over it");
  }
  std::string text = table.text();
  if (memory.phases && memory.phases->growth_bytes_per_second) {
    text += fmt::format("growth over the last hours: {}\n",
                        growth_text(*memory.phases->growth_bytes_per_second));
  }
  const auto stalls = [&](const char* whose, const std::optional<client::Stalls>& pressure) {
    if (!pressure) return;
    text += fmt::format("memory pressure of the {} (10 s): some {:.2f}%, full {:.2f}%\n", whose,
                        pressure->some_avg10, pressure->full_avg10);
  };
  stalls("group", memory.group_pressure);
  stalls("host", memory.host_pressure);
  if (memory.oom_kills) text += fmt::format("OOM kills: {}\n", *memory.oom_kills);
  return text;
}

std::string nodes_text(const std::vector<NodeMemory>& nodes) {
  Table table({{"NODE"},
               {"SAID", true},
               {"ANONYMOUS", true},
               {"TOUCHED", true},
               {"UNATTRIBUTED", true},
               {"RSS", true},
               {"PSS", true},
               {"CGROUP", true},
               {"LIMIT", true},
               {"STALLS", true},
               {"OOM KILLS", true}});
  for (const auto& [node, age, memory] : nodes) {
    const auto bytes = [](const std::optional<std::int64_t>& value) {
      return value ? human_bytes(*value) : "-";
    };
    table.add(
        {node, fmt::format("{:.1f}s ago", age),
         human_bytes(static_cast<std::int64_t>(memory.anonymous_bytes)),
         human_bytes(memory.ledger_touched_bytes),
         share(memory.unattributed_bytes, memory.anonymous_bytes),
         human_bytes(static_cast<std::int64_t>(memory.rss_bytes)),
         human_bytes(static_cast<std::int64_t>(memory.pss_bytes)),
         bytes(memory.cgroup_current_bytes), bytes(memory.cgroup_limit_bytes),
         memory.pressure_some_avg10 ? fmt::format("{:.2f}%", *memory.pressure_some_avg10) : "-",
         memory.oom_kills ? std::to_string(*memory.oom_kills) : "-"});
  }
  return table.text();
}

std::string memory_text(const std::vector<NodeMemory>& nodes, By by) {
  const auto all = sum(nodes);
  std::string text = rows_text(all.rows, by) + "\n" + figures_text(all);
  if (nodes.size() > 1) text += "\n" + nodes_text(nodes);
  return text;
}

}  // namespace

void add_memory(CLI::App& app, Context& context) {
  struct Options {
    bool watch = false;
    By by = By::component;
    std::string node;
  };
  auto options = std::make_shared<Options>();
  const Remote& remote = context.remote;
  auto* verb = app.add_subcommand("memory", "where every byte is, and whose (operator's key)");
  add_watch_option(*verb, options->watch);
  verb->add_option("--by", options->by, "component, tenant, model or endpoint")
      ->transform(CLI::CheckedTransformer(std::map<std::string, By>{{"component", By::component},
                                                                    {"tenant", By::tenant},
                                                                    {"model", By::model},
                                                                    {"endpoint", By::endpoint}}))
      ->option_text("component|tenant|model|endpoint");
  verb->add_option("--node", options->node, "only its memory; all are added up otherwise");
  add_remote_options(*verb, context, true);
  verb->callback([options, &context, &remote] {
    auto client = remote.connect();
    context.exit_code = show(remote, options->watch, [&]() -> View {
      auto nodes = client.node_memory();
      if (!options->node.empty()) {
        std::erase_if(nodes, [&](const auto& node) { return node.node != options->node; });
        if (nodes.empty()) {
          throw client::Error("not_found", "no node named '" + options->node +
                                               "' has told its memory lately; `plimsoll cluster "
                                               "nodes` lists them");
        }
      }
      return {to_json(nodes), memory_text(nodes, options->by)};
    });
  });
}

}  // namespace plimsoll::cli
