#include "cli/confirm.h"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>

#include "cli/exit_codes.h"

namespace plimsoll::cli {

Ask ask_at_terminal() {
  if (isatty(STDIN_FILENO) != 1 || isatty(STDERR_FILENO) != 1) return {};
  return [](const std::string& question) {
    fmt::print(stderr, "{}", question);
    std::string line;
    std::getline(std::cin, line);
    return line;
  };
}

void add_yes_option(CLI::App& verb, Context& context) {
  verb.add_flag("-y,--yes", context.yes, "do not ask");
}

bool confirmed(Context& context, const std::function<std::string()>& what) {
  if (context.yes) return true;
  if (!context.ask) {
    fmt::print(stderr, "plimsoll: nobody is at a terminal to confirm this; give --yes\n");
    context.exit_code = exit_usage;
    return false;
  }
  const auto answer = context.ask(what() + "\nGo on? [y/N] ");
  if (answer == "y" || answer == "Y" || answer == "yes") return true;
  fmt::print(stderr, "nothing was done\n");
  context.exit_code = exit_interrupted;
  return false;
}

}  // namespace plimsoll::cli
