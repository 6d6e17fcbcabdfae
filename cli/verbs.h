// The verbs of `plimsoll`. Each adds its subcommand to the application and sets `exit_code` when
// it runs.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/output.h"
#include "client/client.h"

namespace plimsoll::cli {

// What every verb that talks to a server shares.
struct Remote {
  client::Options options;
  OutputFormat format = OutputFormat::table;
  client::Client connect() const { return client::Client(options); }
};

struct Context {
  Remote remote;
  int exit_code = 0;
};

void add_serve(CLI::App& app, Context& context);
void add_pull(CLI::App& app, Context& context);
void add_config(CLI::App& app, Context& context);
void add_ca(CLI::App& app, Context& context);  // ca init, issue, show
void add_generate(CLI::App& app, Context& context);  // generate, embed
void add_chat(CLI::App& app, Context& context);
void add_inspect(CLI::App& app, Context& context);  // status, models, memory
void add_completion(CLI::App& app, Context& context);

// --address, --api-key, --ca-file and, where the verb prints something, --output.
void add_remote_options(CLI::App& verb, Context& context, bool output);
void add_output_option(CLI::App& verb, OutputFormat& format);

// The only model of a kind on the server, or an error that names the choices.
std::string pick_model(client::Client& client, const std::string& asked, const std::string& kind);

}  // namespace plimsoll::cli
