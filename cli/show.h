// How a verb shows what it sees: once or again and again, for people or for programs.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/verbs.h"

namespace plimsoll::cli {

using Json = nlohmann::ordered_json;

// The same thing twice.
struct View {
  Json document;
  std::string table;
};

// Prints what `look` returns in the remote's format; with `watch` again each second, until Ctrl-C.
// Returns the exit code.
int show(const Remote& remote, bool watch, const std::function<View()>& look);

// Says that something was done: a sentence for people. Returns exit_ok.
int done(const Remote& remote, const Json& document, const std::string& sentence);

// Prints a new secret: for people alone on standard output, so that it can be piped, and the advice
// on standard error. Returns exit_ok.
int secret(const Remote& remote, const Json& document, const std::string& secret,
           const std::string& advice);

void add_watch_option(CLI::App& verb, bool& watch);

}  // namespace plimsoll::cli
