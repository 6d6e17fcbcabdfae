// plimsoll status, models, memory: what the server is doing, and where its memory is.
#include <fmt/format.h>

#include <map>
#include <set>

#include "cli/show.h"

namespace plimsoll::cli {

namespace {

Json to_json(const client::Status& status) {
  Json json{{"version", status.version},
            {"uptime_seconds", status.uptime_seconds},
            {"pressure", status.pressure},
            {"nodes", Json::array()}};
  for (const auto& node : status.nodes) {
    Json engines = Json::array();
    for (const auto& e : node.engines) {
      engines.push_back({{"model", e.model},
                         {"waiting", e.waiting},
                         {"running", e.running},
                         {"paused", e.paused},
                         {"kv_blocks_total", e.kv_blocks_total},
                         {"kv_blocks_used", e.kv_blocks_used},
                         {"kv_blocks_cached", e.kv_blocks_cached},
                         {"steps_total", e.steps_total},
                         {"prompt_tokens_total", e.prompt_tokens_total},
                         {"cached_prompt_tokens_total", e.cached_prompt_tokens_total},
                         {"generated_tokens_total", e.generated_tokens_total},
                         {"preemptions_total", e.preemptions_total},
                         {"finished_total", e.finished_total},
                         {"refused_total", e.refused_total},
                         {"cancelled_total", e.cancelled_total},
                         {"step_seconds_total", e.step_seconds_total}});
    }
    json["nodes"].push_back({{"name", node.name}, {"state", node.state}, {"engines", engines}});
  }
  return json;
}

std::string status_text(const client::Status& status) {
  std::string text = fmt::format("plimsoll {}, up {}, pressure {}\n\n", status.version,
                                 human_duration(status.uptime_seconds), status.pressure);
  Table table({{"NODE"},
               {"STATE"},
               {"MODEL"},
               {"RUNNING", true},
               {"WAITING", true},
               {"PAUSED", true},
               {"KV USED", true},
               {"KV CACHED", true},
               {"PROMPT TOK", true},
               {"GENERATED", true},
               {"FINISHED", true},
               {"REFUSED", true}});
  for (const auto& node : status.nodes) {
    for (const auto& e : node.engines) {
      const auto share = [&](std::uint32_t blocks) {
        return fmt::format("{:.1f}%",
                           e.kv_blocks_total == 0 ? 0.0 : 100.0 * blocks / e.kv_blocks_total);
      };
      table.add({node.name, node.state, e.model, std::to_string(e.running),
                 std::to_string(e.waiting), std::to_string(e.paused), share(e.kv_blocks_used),
                 share(e.kv_blocks_cached), std::to_string(e.prompt_tokens_total),
                 std::to_string(e.generated_tokens_total), std::to_string(e.finished_total),
                 std::to_string(e.refused_total)});
    }
    if (node.engines.empty())
      table.add({node.name, node.state, "-", "", "", "", "", "", "", "", "", ""});
  }
  return text + table.text();
}

Json to_json(const client::Memory& memory) {
  Json rows = Json::array();
  for (const auto& row : memory.rows) {
    Json json{{"component", row.component},
              {"model", row.model},
              {"tenant", row.tenant},
              {"kind", row.kind},
              {"bytes", row.bytes},
              {"peak_bytes", row.peak_bytes},
              {"resident_bytes", row.resident_bytes}};
    rows.push_back(std::move(json));
  }
  Json json{{"rows", rows},
            {"rss_bytes", memory.rss_bytes},
            {"pss_bytes", memory.pss_bytes},
            {"anonymous_bytes", memory.anonymous_bytes},
            {"file_bytes", memory.file_bytes},
            {"ledger_anonymous_bytes", memory.ledger_anonymous_bytes},
            {"ledger_touched_bytes", memory.ledger_touched_bytes},
            {"ledger_mapped_bytes", memory.ledger_mapped_bytes},
            {"unattributed_bytes", memory.unattributed_bytes}};
  const auto add = [&](const char* key, const auto& value) {
    if (value) json[key] = *value;
  };
  add("cgroup_limit_bytes", memory.cgroup_limit_bytes);
  add("cgroup_current_bytes", memory.cgroup_current_bytes);
  add("oom_kills", memory.oom_kills);
  add("allocator_allocated_bytes", memory.allocator_allocated_bytes);
  add("allocator_active_bytes", memory.allocator_active_bytes);
  add("pressure_some_avg10", memory.pressure_some_avg10);
  return json;
}

enum class By { component, tenant, model };

std::string key_of(const client::MemoryRow& row, By by) {
  const std::string& key = by == By::component ? row.component
                           : by == By::tenant  ? row.tenant
                                               : row.model;
  return key.empty() ? "-" : key;
}

// One line a group, one column a tenant (or a component, when grouped by tenant), then what is
// mapped, then what the kernel says beside what the ledger says.
std::string memory_text(const client::Memory& memory, By by) {
  std::map<std::string, std::map<std::string, std::int64_t>> anonymous;
  std::map<std::string, std::int64_t> touched;
  std::map<std::string, std::int64_t> mapped;
  std::map<std::string, std::int64_t> cached;
  std::map<std::string, std::int64_t> peak;
  std::set<std::string> groups;
  std::set<std::string> columns;
  for (const auto& row : memory.rows) {
    if (row.bytes == 0 && row.peak_bytes == 0) continue;
    const auto group = key_of(row, by);
    groups.insert(group);
    if (row.kind == "mapped") {
      mapped[group] += row.bytes;
      cached[group] += row.resident_bytes;
    } else {
      const auto column = key_of(row, by == By::tenant ? By::component : By::tenant);
      columns.insert(column);
      anonymous[group][column] += row.bytes;
      touched[group] += row.resident_bytes;
      peak[group] += row.peak_bytes;
    }
  }
  std::vector<Table::Column> head{{by == By::component ? "COMPONENT"
                                   : by == By::tenant  ? "TENANT"
                                                       : "MODEL"}};
  for (const auto& column : columns) head.push_back({column, true});
  for (const auto* title : {"CHARGED", "PEAK", "TOUCHED", "MAPPED", "IN CACHE"})
    head.push_back({title, true});
  Table table(head);
  const auto cell = [](std::int64_t bytes) { return bytes == 0 ? "-" : human_bytes(bytes); };
  for (const auto& group : groups) {
    std::vector<std::string> line{group};
    std::int64_t sum = 0;
    for (const auto& column : columns) {
      const auto bytes = anonymous[group][column];
      sum += bytes;
      line.push_back(cell(bytes));
    }
    line.insert(line.end(), {cell(sum), cell(peak[group]), cell(touched[group]),
                             cell(mapped[group]), cell(cached[group])});
    table.add(std::move(line));
  }
  std::string text = table.text() + "\n";

  Table totals({{""}, {"", true}, {""}});
  const auto line = [&](const char* name, std::int64_t bytes, const std::string& note = "") {
    totals.add({name, human_bytes(bytes), note});
  };
  const auto unattributed = memory.unattributed_bytes;
  line("charged", memory.ledger_anonymous_bytes, "reserved for its owners, touched or not");
  line("touched", memory.ledger_touched_bytes);
  line("unattributed", unattributed,
       memory.rss_bytes == 0
           ? ""
           : fmt::format("{:.1f}% of RSS", 100.0 * static_cast<double>(unattributed) /
                                               static_cast<double>(memory.rss_bytes)));
  line("anonymous", static_cast<std::int64_t>(memory.anonymous_bytes),
       "what the kernel cannot reclaim");
  line("file-backed", static_cast<std::int64_t>(memory.file_bytes),
       "weights and code: reclaimable");
  line("RSS", static_cast<std::int64_t>(memory.rss_bytes));
  line("PSS", static_cast<std::int64_t>(memory.pss_bytes), "shared pages divided by their users");
  if (memory.cgroup_current_bytes) {
    line("cgroup", *memory.cgroup_current_bytes,
         memory.cgroup_limit_bytes ? "of " + human_bytes(*memory.cgroup_limit_bytes) : "no limit");
  }
  if (memory.allocator_active_bytes && memory.allocator_allocated_bytes) {
    line("heap", *memory.allocator_active_bytes,
         human_bytes(*memory.allocator_allocated_bytes) + " of it allocated");
  }
  text += totals.text();
  if (memory.pressure_some_avg10) {
    text += fmt::format("memory pressure (some, 10 s): {:.2f}%\n", *memory.pressure_some_avg10);
  }
  if (memory.oom_kills) text += fmt::format("OOM kills: {}\n", *memory.oom_kills);
  return text;
}

std::string models_text(const std::vector<client::Model>& models) {
  Table table({{"MODEL"},
               {"KIND"},
               {"ARCHITECTURE"},
               {"PARAMETERS", true},
               {"WEIGHTS"},
               {"CONTEXT", true},
               {"VERSION"}});
  for (const auto& m : models) {
    table.add({m.name, m.kind, m.architecture,
               fmt::format("{:.1f} M", static_cast<double>(m.parameters) / 1e6), m.quantization,
               std::to_string(m.context_tokens), m.version});
  }
  return table.text();
}

Json to_json(const std::vector<client::Model>& models) {
  Json json = Json::array();
  for (const auto& m : models) {
    json.push_back({{"name", m.name},
                    {"version", m.version},
                    {"kind", m.kind},
                    {"architecture", m.architecture},
                    {"quantization", m.quantization},
                    {"context_tokens", m.context_tokens},
                    {"hidden", m.hidden},
                    {"parameters", m.parameters}});
  }
  return json;
}

}  // namespace

void add_inspect(CLI::App& app, Context& context) {
  struct Options {
    bool watch = false;
    By by = By::component;
  };
  auto options = std::make_shared<Options>();
  const Remote& remote = context.remote;

  auto* status = app.add_subcommand("status", "nodes, their engines, and what they are doing");
  add_watch_option(*status, options->watch);
  add_remote_options(*status, context, true);
  status->callback([options, &context, &remote] {
    auto client = remote.connect();
    context.exit_code = show(remote, options->watch, [&]() -> View {
      const auto status = client.status();
      return {to_json(status), status_text(status)};
    });
  });

  auto* models = app.add_subcommand("models", "the models that the server serves");
  add_remote_options(*models, context, true);
  models->callback([&context, &remote] {
    auto client = remote.connect();
    context.exit_code = show(remote, false, [&]() -> View {
      const auto models = client.models();
      return {to_json(models), models_text(models)};
    });
  });

  auto* memory = app.add_subcommand("memory", "where every byte is, and whose");
  add_watch_option(*memory, options->watch);
  memory->add_option("--by", options->by, "component, tenant or model")
      ->transform(CLI::CheckedTransformer(std::map<std::string, By>{
          {"component", By::component}, {"tenant", By::tenant}, {"model", By::model}}))
      ->option_text("component|tenant|model");
  add_remote_options(*memory, context, true);
  memory->callback([options, &context, &remote] {
    auto client = remote.connect();
    context.exit_code = show(remote, options->watch, [&]() -> View {
      const auto memory = client.memory();
      return {to_json(memory), memory_text(memory, options->by)};
    });
  });
}

}  // namespace plimsoll::cli
