// plimsoll chat: an interactive chat in the terminal.
#include <editline/readline.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/verbs.h"

namespace plimsoll::cli {

namespace {

constexpr const char* help_text =
    "/help           this text\n"
    "/clear          forget the conversation\n"
    "/system TEXT    set the system message, and start again\n"
    "/exit           leave; Ctrl-D does too\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.\n";

// One line, without its end; false at the end of input.
bool read_line(const char* prompt, std::string& line) {
  if (isatty(STDIN_FILENO) != 1) return static_cast<bool>(std::getline(std::cin, line));
  char* text = readline(prompt);
  if (text == nullptr) return false;
  line = text;
  std::free(text);
  return true;
}

bool read_message(std::string& message) {
  if (!read_line("> ", message)) return false;
  while (message.ends_with('\\')) {
    message.back() = '\n';
    std::string more;
    if (!read_line(". ", more)) break;
    message += more;
  }
  if (!message.empty()) add_history(message.c_str());
  return true;
}

// Prints the answer as it comes; adds it to the conversation, also what there is of a stopped one.
void answer(client::Client& client, client::GenerateRequest& request) {
  Interrupt interrupt;
  std::string text;
  const auto result = client.generate(
      request,
      [&](const client::Delta& delta) {
        text += delta.text;
        fmt::print("{}", delta.text);
        std::fflush(stdout);
        return true;
      },
      interrupt.token());
  fmt::print("{}\n\n", interrupt.happened()                             ? " [stopped]"
                       : result.choices.at(0).finish_reason == "length" ? " [length limit]"
                                                                        : "");
  request.messages.push_back({"assistant", text});
}

int chat(client::GenerateRequest request, const std::string& system, const Remote& remote) {
  auto client = remote.connect();
  request.model = pick_model(client, request.model, "causal");
  std::string system_message = system;
  const auto restart = [&] {
    request.messages.clear();
    if (!system_message.empty()) request.messages.push_back({"system", system_message});
  };
  restart();
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) {
    fmt::print("Chatting with {}. /help lists the commands; Ctrl-D leaves.\n\n", request.model);
    // At the prompt Ctrl-C does nothing; during an answer `Interrupt` takes it.
    signal(SIGINT, SIG_IGN);
    rl_catch_signals = 0;  // libedit's own handler would end the line, and so the program
    rl_initialize();
  }
  for (std::string message; read_message(message);) {
    if (message.empty()) continue;
    if (message == "/exit" || message == "/quit") break;
    if (message == "/help") {
      fmt::print("{}", help_text);
    } else if (message == "/clear") {
      restart();
    } else if (message.starts_with("/system ")) {
      system_message = message.substr(8);
      restart();
    } else if (message.starts_with("/")) {
      fmt::print("no command {}; /help lists them\n", message.substr(0, message.find(' ')));
    } else {
      request.messages.push_back({"user", message});
      try {
        answer(client, request);
      } catch (const client::Error& e) {
        request.messages.pop_back();
        if (e.code == "unavailable" || !terminal) throw;
        fmt::print(stderr, "{}\n", e.what());
      }
    }
  }
  if (terminal) fmt::print("\n");
  return exit_ok;
}

}  // namespace

void add_chat(CLI::App& app, Context& context) {
  struct Options {
    client::GenerateRequest request;
    std::string system;
  };
  auto options = std::make_shared<Options>();
  auto& request = options->request;
  auto* verb = app.add_subcommand("chat", "talk to a model in the terminal");
  verb->add_option("-m,--model", request.model, "needed if the server has several");
  verb->add_option("--system", options->system, "system message");
  verb->add_option("-n,--max-tokens", request.max_tokens, "of one answer; 0: no limit")
      ->capture_default_str();
  request.temperature = 0.7F;
  verb->add_option("-t,--temperature", request.temperature)->capture_default_str();
  verb->add_option("--top-p", request.top_p)->capture_default_str();
  verb->add_option("--seed", request.seed, "the same seed gives the same answers");
  add_remote_options(*verb, context, false);
  verb->callback([options, &context] {
    context.exit_code = chat(options->request, options->system, context.remote);
  });
}

}  // namespace plimsoll::cli
