// Nothing that hurts happens unasked.
#pragma once

#include <functional>
#include <string>

#include "cli/verbs.h"

namespace plimsoll::cli {

// Asks whoever sits at the terminal; empty if standard input or standard error is none.
Ask ask_at_terminal();

void add_yes_option(CLI::App& verb, Context& context);

// Whether to go on: with --yes, or after `what` was shown and answered with yes. Otherwise sets the
// exit code: exit_usage where nobody can be asked, exit_interrupted after any other answer.
bool confirmed(Context& context, const std::function<std::string()>& what);

}  // namespace plimsoll::cli
