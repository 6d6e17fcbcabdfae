// plimsoll status, models: what the server is doing, and with what.
#include <fmt/format.h>

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
  auto watch = std::make_shared<bool>(false);
  const Remote& remote = context.remote;

  auto* status = app.add_subcommand("status", "nodes, their engines, and what they are doing");
  add_watch_option(*status, *watch);
  add_remote_options(*status, context, true);
  status->callback([watch, &context, &remote] {
    auto client = remote.connect();
    context.exit_code = show(remote, *watch, [&]() -> View {
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
}

}  // namespace plimsoll::cli
