// plimsoll completion: scripts for the shells, made from the command line's own definition.
#include <fmt/format.h>

#include "cli/verbs.h"

namespace plimsoll::cli {

namespace {

struct Verb {
  std::string path;  // "config show"
  std::string about;
  std::vector<std::string> words;  // flags and subcommands
};

void collect(const CLI::App& app, const std::string& path, std::vector<Verb>& verbs) {
  Verb verb{path, app.get_description(), {}};
  for (const auto* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    verb.words.push_back(sub->get_name());
  }
  for (const auto* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) verb.words.push_back("--" + name);
  }
  verbs.push_back(std::move(verb));
  for (const auto* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    collect(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), verbs);
  }
}

std::string bash(const std::vector<Verb>& verbs) {
  std::string cases;
  for (const auto& verb : verbs) {
    cases += fmt::format("    '{}') words='{}' ;;\n", verb.path, fmt::join(verb.words, " "));
  }
  return fmt::format(R"(# bash completion for plimsoll: source <(plimsoll completion bash)
_plimsoll() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} path='' words='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in -*) break ;; esac
    path+="${{path:+ }}${{COMP_WORDS[i]}}"
  done
  case $path in
{}    *) words='' ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _plimsoll plimsoll
)",
                     cases);
}

std::string fish(const std::vector<Verb>& verbs) {
  std::string script = "# fish completion for plimsoll: plimsoll completion fish | source\n";
  for (const auto& verb : verbs) {
    std::string seen = "__fish_use_subcommand";
    if (!verb.path.empty()) {
      seen =
          fmt::format("__fish_seen_subcommand_from {}", verb.path.substr(0, verb.path.find(' ')));
    }
    for (const auto& word : verb.words) {
      script += word.starts_with("--")
                    ? fmt::format("complete -c plimsoll -n '{}' -l {}\n", seen, word.substr(2))
                    : fmt::format("complete -c plimsoll -f -n '{}' -a {}\n", seen, word);
    }
  }
  return script;
}

}  // namespace

void add_completion(CLI::App& app, Context&) {
  auto shell = std::make_shared<std::string>();
  auto* verb = app.add_subcommand("completion", "print a completion script for a shell");
  verb->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([&app, shell] {
    std::vector<Verb> verbs;
    collect(app, "", verbs);
    if (*shell == "fish") {
      fmt::print("{}", fish(verbs));
    } else {
      if (*shell == "zsh") fmt::print("autoload -U +X bashcompinit && bashcompinit\n");
      fmt::print("{}", bash(verbs));
    }
  });
}

}  // namespace plimsoll::cli
