// The options of `serve`, shared with `config check` and `config show`.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

#include "cli/config.h"

namespace plimsoll::cli {

struct ServeOptions {
  Role role = Role::all;
  std::string file;
  std::vector<std::string> models;
  std::map<std::string, std::string> flags;  // those given, by setting key
};

// --config, --model and a flag for every setting.
void add_serve_options(CLI::App& verb, ServeOptions& options);

// The defaults, then the file, then the flags, then complete_config().
Result<Config> make_config(const ServeOptions& options);

}  // namespace plimsoll::cli
