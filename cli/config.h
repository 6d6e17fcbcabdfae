// The configuration file and the flags that override it: one table of settings drives both, and
// `plimsoll config show`.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "actors/server_config.h"
#include "engine/base/result.h"

namespace plimsoll::cli {

// Stands for what suits the role: $XDG_STATE_HOME/plimsoll/router or node-NAME; of a process that
// is both, nothing.
inline constexpr const char* auto_directory = "auto";

struct Config {
  ServerConfig server;
  // What complete_config() puts into `server`, and show_config() shows as it was given.
  ListenConfig cluster_listen{"", 0, {}, {}};
  std::filesystem::path state_directory = auto_directory;
  std::string join_token;
  std::filesystem::path join_token_file;  // nothing there: no token
  std::string log_level = "info";
};

// One scalar setting. `key` is its path in the YAML file ("http.listen"); its flag is the same
// with dashes ("--http-listen").
struct Setting {
  std::string key;
  std::string help;
  std::function<std::string(const Config&)> get;
  std::function<Result<void>(Config&, const std::string&)> set;  // the error says what is expected
  bool list = false;  // the file may have a list of values
  std::string flag() const;
};
const std::vector<Setting>& settings();

// Reads a YAML file over `config`. Errors: "FILE:LINE: key: what is wrong". Unknown and duplicate
// keys are errors.
Result<void> load_config(const std::filesystem::path& file, Config& config);

// "NAME=PATH", "NAME" from the catalogue, or "PATH".
Result<ModelConfig> parse_model(const std::string& text);

// Checks what no single setting shows: listen addresses against TLS and keys, caps against each
// other, models that exist. Fills in the catalogue's default models if none are named, where state
// is kept, and a node's join token.
Result<void> complete_config(Config& config);

// The whole configuration as YAML that load_config reads back.
std::string show_config(const Config& config);

}  // namespace plimsoll::cli
