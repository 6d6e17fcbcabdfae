// plimsoll: serve models, talk to them, and see where their memory is.
#include <CLI/CLI.hpp>

#include "cli/confirm.h"
#include "cli/verbs.h"

// For jemalloc, as it starts. Large buffers (of bodies, mostly) go back to the kernel when they are
// freed, and all else after a second: what is freed still counts against the memory limit.
extern "C" const char* malloc_conf =
    "oversize_threshold:262144,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true";

namespace plimsoll::cli {

namespace {

int main(int argc, char** argv) {
  CLI::App app{"Plimsoll: a memory-first inference cluster for many tenants", "plimsoll"};
  app.set_version_flag("--version", "plimsoll " PLIMSOLL_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no server there,\n"
      "4 refused by the server, 130 interrupted or not confirmed. `plimsoll VERB --help` tells "
      "more.");
  Context context;
  context.ask = ask_at_terminal();
  add_serve(app, context);
  add_pull(app, context);
  add_chat(app, context);
  add_generate(app, context);
  add_inspect(app, context);
  add_memory(app, context);
  add_cache(app, context);
  add_events(app, context);
  add_top(app, context);
  add_cluster(app, context);
  add_tenant(app, context);
  add_chargeback(app, context);
  add_model(app, context);
  add_scorecard(app, context);
  add_config(app, context);
  add_ca(app, context);
  add_completion(app, context);
  return run(app, context, argc, argv);
}

}  // namespace
}  // namespace plimsoll::cli

int main(int argc, char** argv) { return plimsoll::cli::main(argc, argv); }
