// plimsoll: serve models, talk to them, and see where their memory is.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cli/exit_codes.h"
#include "cli/verbs.h"

namespace plimsoll::cli {

void add_remote_options(CLI::App& verb, Context& context, bool output) {
  auto& options = context.remote.options;
  verb.add_option("--address", options.addresses,
                  "HOST:PORT of the server's RPC API; of a cluster, those of its routers")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->envname("PLIMSOLL_ADDRESS")
      ->capture_default_str();
  verb.add_option("--api-key", options.api_key, "better given in the environment")
      ->envname("PLIMSOLL_API_KEY");
  verb.add_option("--ca-file", options.ca_file, "PEM file of the server's CA: use TLS")
      ->envname("PLIMSOLL_CA_FILE");
  if (output) add_output_option(verb, context.remote.format);
}

void add_output_option(CLI::App& verb, OutputFormat& format) {
  verb.add_option("-o,--output", format, "table or json")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, OutputFormat>{{"table", OutputFormat::table},
                                              {"json", OutputFormat::json}},
          CLI::ignore_case))
      ->option_text("table|json");
}

namespace {

int exit_code_of(const client::Error& error) {
  if (error.code == "unavailable") return exit_unavailable;
  if (error.code == "internal") return exit_failure;
  return exit_refused;
}

int run(int argc, char** argv) {
  CLI::App app{"Plimsoll: a memory-first inference cluster for many tenants", "plimsoll"};
  app.set_version_flag("--version", "plimsoll " PLIMSOLL_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no server there,\n"
      "4 refused by the server, 130 interrupted. `plimsoll VERB --help` tells more.");
  Context context;
  add_serve(app, context);
  add_pull(app, context);
  add_chat(app, context);
  add_generate(app, context);
  add_inspect(app, context);
  add_config(app, context);
  add_ca(app, context);
  add_completion(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? exit_ok : exit_usage;
  } catch (const client::Error& e) {
    fmt::print(stderr, "plimsoll: {}\n", e.what());
    if (e.retry_after_ms > 0) fmt::print(stderr, "try again in {} ms\n", e.retry_after_ms);
    return exit_code_of(e);
  } catch (const std::exception& e) {
    fmt::print(stderr, "plimsoll: {}\n", e.what());
    return exit_failure;
  }
  return context.exit_code;
}

}  // namespace
}  // namespace plimsoll::cli

int main(int argc, char** argv) { return plimsoll::cli::run(argc, argv); }
