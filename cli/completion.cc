// plimsoll completion: scripts for the shells, made from the command line's own definition.
#include <fmt/format.h>

#include <algorithm>

#include "cli/verbs.h"

namespace plimsoll::cli {

namespace {

struct Flag {
  std::vector<std::string> names;  // "--output", "-o"
  bool takes_value = false;
  std::vector<std::string> choices;  // of its value, if they are few
};
struct Verb {
  std::string path;  // "cluster join-token create"; empty: the program
  std::vector<std::string> subcommands;
  std::vector<Flag> flags;
  std::vector<std::string> arguments;  // choices of its positional ones
};

// "table|json" lists what may be given; "SIZE" does not.
std::vector<std::string> choices_of(const CLI::Option& option) {
  const std::string& text = option.get_option_text();
  if (text.find('|') == std::string::npos || text.find_first_of(" .,") != std::string::npos) {
    return {};
  }
  return CLI::detail::split(text, '|');
}

void collect(const CLI::App& app, const std::string& path, std::vector<Verb>& verbs) {
  Verb verb{path, {}, {}, {}};
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const auto* sub : subcommands) verb.subcommands.push_back(sub->get_name());
  for (const auto* option : app.get_options()) {
    const auto choices = choices_of(*option);
    if (option->get_positional()) {
      verb.arguments.insert(verb.arguments.end(), choices.begin(), choices.end());
      continue;
    }
    Flag flag{{}, option->get_items_expected_max() > 0, choices};
    for (const auto& name : option->get_lnames()) flag.names.push_back("--" + name);
    for (const auto& name : option->get_snames()) flag.names.push_back("-" + name);
    verb.flags.push_back(std::move(flag));
  }
  verbs.push_back(std::move(verb));
  for (const auto* sub : subcommands) {
    collect(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), verbs);
  }
}

std::string bash(const std::vector<Verb>& verbs) {
  std::string words;
  std::string values;
  for (const auto& verb : verbs) {
    std::vector<std::string> all = verb.subcommands;
    all.insert(all.end(), verb.arguments.begin(), verb.arguments.end());
    for (const auto& flag : verb.flags) {
      all.push_back(flag.names.front());
      if (!flag.takes_value) continue;
      std::vector<std::string> cases;
      for (const auto& name : flag.names) cases.push_back(fmt::format("'{} {}'", verb.path, name));
      values += fmt::format("    {}) echo '{}' ;;\n", fmt::join(cases, " | "),
                            fmt::join(flag.choices, " "));
    }
    words += fmt::format("    '{}') echo '{}' ;;\n", verb.path, fmt::join(all, " "));
  }
  return fmt::format(R"(# bash completion for plimsoll: source <(plimsoll completion bash)
_plimsoll_words() {{  # what may follow a verb
  case $1 in
{}    *) return 1 ;;
  esac
}}
_plimsoll_values() {{  # what may follow a verb's flag
  case $1 in
{}    *) return 1 ;;
  esac
}}
_plimsoll() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} path='' words i next
  for ((i = 1; i < COMP_CWORD; i++)); do
    next="${{path:+$path }}${{COMP_WORDS[i]}}"
    if _plimsoll_words "$next" >/dev/null; then path=$next; fi
  done
  words=$(_plimsoll_values "$path ${{COMP_WORDS[COMP_CWORD - 1]}}") || words=$(_plimsoll_words "$path")
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _plimsoll plimsoll
)",
                     words, values);
}

std::string fish(const std::vector<Verb>& verbs) {
  std::string script = "# fish completion for plimsoll: plimsoll completion fish | source\n";
  for (const auto& verb : verbs) {
    // All words of the path were given, and none of the verbs below it.
    std::vector<std::string> conditions;
    for (const auto& word : CLI::detail::split(verb.path, ' ')) {
      if (!word.empty()) conditions.push_back("__fish_seen_subcommand_from " + word);
    }
    if (!verb.subcommands.empty()) {
      conditions.push_back(
          fmt::format("not __fish_seen_subcommand_from {}", fmt::join(verb.subcommands, " ")));
    }
    const auto line = [&](const std::string& rest) {
      script +=
          fmt::format("complete -c plimsoll -n '{}' {}\n", fmt::join(conditions, "; and "), rest);
    };
    for (const auto& word : verb.subcommands) line("-f -a " + word);
    for (const auto& word : verb.arguments) line("-f -a " + word);
    for (const auto& flag : verb.flags) {
      std::string names;
      for (const auto& name : flag.names) {
        names += name.starts_with("--") ? "-l " + name.substr(2) : "-s " + name.substr(1);
        names += " ";
      }
      if (!flag.choices.empty()) {
        line(fmt::format("{}-x -a '{}'", names, fmt::join(flag.choices, " ")));
      } else {
        line(names + (flag.takes_value ? "-r" : ""));
      }
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
      ->check(CLI::IsMember({"bash", "zsh", "fish"}))
      ->option_text("bash|zsh|fish");
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
