#include "cli/show.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "cli/exit_codes.h"
#include "cli/interrupt.h"

namespace plimsoll::cli {

int show(const Remote& remote, bool watch, const std::function<View()>& look) {
  const auto text = [&] {
    const View view = look();
    return remote.format == OutputFormat::table ? view.table
                                                : to_text(view.document, remote.format);
  };
  if (!watch) {
    fmt::print("{}", text());
    return exit_ok;
  }
  // On a terminal, tables replace each other; all else is a stream that a program reads.
  const bool clear = remote.format == OutputFormat::table && isatty(STDOUT_FILENO) == 1;
  const Interrupt interrupt;
  std::mutex mutex;
  std::condition_variable_any never;
  while (!interrupt.happened()) {
    if (remote.format == OutputFormat::yaml) fmt::print("---\n");
    fmt::print("{}{}", clear ? "\033[H\033[2J" : "", text());
    std::fflush(stdout);
    std::unique_lock lock(mutex);
    never.wait_for(lock, interrupt.token(), std::chrono::seconds(1), [] { return false; });
  }
  return exit_ok;
}

int done(const Remote& remote, const Json& document, const std::string& sentence) {
  return show(remote, false, [&]() -> View { return {document, sentence + "\n"}; });
}

int secret(const Remote& remote, const Json& document, const std::string& secret,
           const std::string& advice) {
  fmt::print(stderr, "{}\n", advice);
  return show(remote, false, [&]() -> View { return {document, secret + "\n"}; });
}

void add_watch_option(CLI::App& verb, bool& watch) {
  verb.add_flag("-w,--watch", watch, "again every second");
}

}  // namespace plimsoll::cli
