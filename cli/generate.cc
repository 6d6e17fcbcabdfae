// plimsoll generate, plimsoll embed.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/verbs.h"

namespace plimsoll::cli {

namespace {

struct GenerateOptions {
  client::GenerateRequest request;
  bool chat = false;
  std::string system;
};

// The words of the command line, or standard input for "-".
std::string read_text(const std::string& argument) {
  if (argument != "-") return argument;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

int generate(const GenerateOptions& options, const Remote& remote) {
  auto client = remote.connect();
  client::GenerateRequest request = options.request;
  request.model = pick_model(client, request.model, "causal");
  request.prompt = read_text(request.prompt);
  if (options.chat) {
    if (!options.system.empty()) request.messages.push_back({"system", options.system});
    request.messages.push_back({"user", std::exchange(request.prompt, {})});
  }
  Interrupt interrupt;
  if (remote.format != OutputFormat::table) {
    const auto answer = client.generate(request, {}, interrupt.token());
    nlohmann::ordered_json json;
    json["model"] = request.model;
    for (const auto& choice : answer.choices) {
      json["choices"].push_back({{"text", choice.text}, {"finish_reason", choice.finish_reason}});
    }
    json["usage"] = {{"prompt_tokens", answer.usage.prompt_tokens},
                     {"cached_tokens", answer.usage.cached_tokens},
                     {"completion_tokens", answer.usage.completion_tokens}};
    fmt::print("{}", to_text(json, remote.format));
  } else {
    client.generate(
        request,
        [](const client::Delta& delta) {
          std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
          return std::fflush(stdout) == 0;
        },
        interrupt.token());
    fmt::print("\n");
  }
  return interrupt.happened() ? exit_interrupted : exit_ok;
}

int embed(const std::string& model, std::vector<std::string> inputs,
          const client::EmbedOptions& options, const Remote& remote) {
  if (inputs.size() == 1 && inputs[0] == "-") {  // one text a line
    inputs.clear();
    for (std::string line; std::getline(std::cin, line);) inputs.push_back(line);
  }
  auto client = remote.connect();
  const auto name = pick_model(client, model, "embedding");
  const auto answer = client.embed(name, inputs, options);
  if (remote.format != OutputFormat::table) {
    nlohmann::ordered_json json;
    json["model"] = name;
    json["embeddings"] = answer.vectors;
    json["usage"] = {{"prompt_tokens", answer.prompt_tokens},
                     {"cached_tokens", answer.cached_tokens}};
    if (remote.format == OutputFormat::json) {
      fmt::print("{}\n", json.dump());
    } else {
      fmt::print("{}", to_text(json, remote.format));
    }
    return exit_ok;
  }
  for (const auto& vector : answer.vectors) fmt::print("{:.6f}\n", fmt::join(vector, " "));
  return exit_ok;
}

}  // namespace

void add_generate(CLI::App& app, Context& context) {
  auto options = std::make_shared<GenerateOptions>();
  auto& request = options->request;
  auto* verb = app.add_subcommand("generate", "go on from a text");
  verb->add_option("prompt", request.prompt, "the text; - reads standard input")->required();
  verb->add_option("-m,--model", request.model, "needed if the server has several");
  verb->add_flag("--chat", options->chat, "send it as a user's message");
  verb->add_option("--system", options->system, "system message, with --chat");
  request.max_tokens = 256;
  verb->add_option("-n,--max-tokens", request.max_tokens, "0: the rest of the context")
      ->capture_default_str();
  verb->add_option("-t,--temperature", request.temperature, "0: always the likeliest token")
      ->capture_default_str();
  verb->add_option("--top-p", request.top_p)->capture_default_str();
  verb->add_option("--top-k", request.top_k)->capture_default_str();
  verb->add_option("--min-p", request.min_p)->capture_default_str();
  verb->add_option("--presence-penalty", request.presence_penalty);
  verb->add_option("--frequency-penalty", request.frequency_penalty);
  verb->add_option("--seed", request.seed, "the same seed gives the same text");
  verb->add_option("--stop", request.stop, "ends the text; may be repeated")
      ->allow_extra_args(false);
  verb->add_flag("--echo", request.echo, "print the prompt too");
  const char* no_store = "keep what is computed off the servers' disks";
  verb->add_flag("--no-store", request.no_store, no_store);
  add_remote_options(*verb, context, true);
  verb->callback([options, &context] { context.exit_code = generate(*options, context.remote); });

  struct EmbedOptions {
    std::string model;
    std::vector<std::string> inputs;
    client::EmbedOptions call;
  };
  auto embed_options = std::make_shared<EmbedOptions>();
  auto* embed_verb = app.add_subcommand("embed", "turn texts into vectors");
  embed_verb
      ->add_option("text", embed_options->inputs,
                   "texts; - reads one from each line of "
                   "standard input")
      ->required();
  embed_verb->add_option("-m,--model", embed_options->model, "needed if the server has several");
  embed_verb->add_flag("--no-store", embed_options->call.no_store, no_store);
  add_remote_options(*embed_verb, context, true);
  embed_verb->callback([embed_options, &context] {
    context.exit_code =
        embed(embed_options->model, embed_options->inputs, embed_options->call, context.remote);
  });
}

}  // namespace plimsoll::cli
