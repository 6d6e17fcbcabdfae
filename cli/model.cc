// plimsoll model: which models the cluster serves, and on which nodes.
#include <fmt/format.h>

#include <algorithm>

#include "cli/confirm.h"
#include "cli/exit_codes.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using client::Operator;
using client::PlacedModel;

View models_view(const std::vector<PlacedModel>& models) {
  View view{Json::array(), ""};
  Table table({{"MODEL"}, {"NODE"}, {"STATE"}, {"VERSION"}, {"SOURCE"}, {"REASON"}});
  for (const auto& m : models) {
    Json replicas = Json::array();
    for (const auto& r : m.replicas) {
      replicas.push_back({{"node", r.node}, {"state", r.state}, {"reason", r.reason}});
      table.add({m.name, r.node, r.state, m.version, m.source, r.reason});
    }
    if (m.replicas.empty()) table.add({m.name, "-", "nowhere", m.version, m.source, ""});
    view.document.push_back(
        {{"name", m.name}, {"version", m.version}, {"source", m.source}, {"replicas", replicas}});
  }
  view.table = table.text();
  return view;
}

std::string on_nodes(const std::vector<std::string>& nodes) {
  return nodes.empty() ? "every node" : fmt::format("{}", fmt::join(nodes, ", "));
}

}  // namespace

void add_model(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    std::string source;
    std::vector<std::string> nodes;
    bool watch = false;
  };
  auto options = std::make_shared<Options>();
  auto* family = app.add_subcommand("model", "the models of a cluster (operator's key)");
  family->require_subcommand(1);

  auto* list = add_operator_verb(
      *family, context, "list", "every model, and how it is on each node",
      [options, &context](Operator& cluster) {
        return show(context.remote, options->watch, [&] { return models_view(cluster.models()); });
      });
  add_watch_option(*list, options->watch);

  auto* load = add_operator_verb(
      *family, context, "load", "serve a model; `model list` shows how far it is",
      [options, &context](Operator& cluster) {
        cluster.load_model(options->name, options->source, options->nodes);
        return done(
            context.remote,
            {{"name", options->name}, {"source", options->source}, {"nodes", options->nodes}},
            fmt::format("{} is being loaded on {}", options->name, on_nodes(options->nodes)));
      });
  load->add_option("--source", options->source, "a file's path on the nodes, or a catalogue's name")
      ->required();

  auto* place = add_operator_verb(
      *family, context, "place", "serve a model on these nodes and no others",
      [options, &context](Operator& cluster) {
        cluster.place_model(options->name, options->nodes);
        return done(context.remote, {{"name", options->name}, {"nodes", options->nodes}},
                    fmt::format("{} belongs on {}", options->name, on_nodes(options->nodes)));
      });

  auto* unload = add_operator_verb(
      *family, context, "unload", "stop serving a model", [options, &context](Operator& cluster) {
        if (!confirmed(context, [&] {
              const auto models = cluster.models();
              const auto found = std::ranges::find(models, options->name, &PlacedModel::name);
              if (found == models.end()) {
                throw client::Error("not_found", "no model named '" + options->name +
                                                     "'; `plimsoll model list` lists them");
              }
              std::vector<std::string> nodes;
              for (const auto& replica : found->replicas) nodes.push_back(replica.node);
              return fmt::format("Unload {} from {}: requests for it are refused from then on.",
                                 options->name, fmt::join(nodes, ", "));
            })) {
          return context.exit_code;
        }
        cluster.unload_model(options->name);
        return done(context.remote, {{"name", options->name}, {"unloaded", true}},
                    options->name + " is being unloaded");
      });
  add_yes_option(*unload, context);

  load->add_option("--node", options->nodes, "may be repeated; none is all of them")
      ->allow_extra_args(false);
  place->add_option("--node", options->nodes, "may be repeated")
      ->allow_extra_args(false)
      ->required();
  for (auto* verb : {load, place, unload}) verb->add_option("name", options->name)->required();
}

}  // namespace plimsoll::cli
