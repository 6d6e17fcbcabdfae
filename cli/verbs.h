// The verbs of `plimsoll`. Each adds its subcommand to the application and sets `exit_code` when
// it runs.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <string>

#include "cli/output.h"
#include "client/client.h"
#include "client/operator.h"

namespace plimsoll::cli {

// What every verb that talks to a server shares.
struct Remote {
  client::Options options;
  OutputFormat format = OutputFormat::table;
  client::Client connect() const { return client::Client(options); }
};

// Puts a question to a person and returns the answer.
using Ask = std::function<std::string(const std::string& question)>;

struct Context {
  Remote remote;
  bool yes = false;  // nothing is asked
  Ask ask;           // empty: there is nobody
  int exit_code = 0;
};

void add_serve(CLI::App& app, Context& context);
void add_pull(CLI::App& app, Context& context);
void add_config(CLI::App& app, Context& context);
void add_ca(CLI::App& app, Context& context);        // ca init, issue, show
void add_generate(CLI::App& app, Context& context);  // generate, embed
void add_chat(CLI::App& app, Context& context);
void add_inspect(CLI::App& app, Context& context);  // status, models
void add_memory(CLI::App& app, Context& context);
void add_cache(CLI::App& app, Context& context);
void add_cluster(CLI::App& app, Context& context);
void add_tenant(CLI::App& app, Context& context);
void add_model(CLI::App& app, Context& context);
void add_top(CLI::App& app, Context& context);
void add_events(CLI::App& app, Context& context);
void add_scorecard(CLI::App& app, Context& context);  // scorecard, scorecard compare, ...
void add_chargeback(CLI::App& app, Context& context);
void add_completion(CLI::App& app, Context& context);

// --address, --api-key, --ca-file and, where the verb prints something, --output.
void add_remote_options(CLI::App& verb, Context& context, bool output);
void add_output_option(CLI::App& verb, OutputFormat& format);

// A verb that talks to a cluster as its operator: connects, and returns the exit code.
CLI::App* add_operator_verb(CLI::App& family, Context& context, const std::string& name,
                            const std::string& about,
                            std::function<int(client::Operator& cluster)> run);
// An option like "30s".
CLI::Option* add_time_option(CLI::App& verb, const std::string& flag,
                             std::chrono::milliseconds& target, const std::string& about);

// Runs the verb that the words name; returns the exit code and never throws.
int run(CLI::App& app, Context& context, int argc, const char* const* argv);

// The only model of a kind on the server, or an error that names the choices.
std::string pick_model(client::Client& client, const std::string& asked, const std::string& kind);

}  // namespace plimsoll::cli
