#include "cli/verbs.h"

#include <fmt/format.h>

#include <cstdlib>

#include "cli/exit_codes.h"
#include "cli/quantity.h"

namespace plimsoll::cli {

namespace {

// Before any flag. Not by CLI11's envname: all verbs have these options, and those that were not
// asked for would take the environment too, over the flags of the one that was.
void take_environment(client::Options& options) {
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text == nullptr ? "" : text);
  };
  if (const auto text = value("PLIMSOLL_ADDRESS"); !text.empty()) {
    options.addresses = CLI::detail::split(text, ',');
  }
  options.api_key = value("PLIMSOLL_API_KEY");
  options.ca_file = value("PLIMSOLL_CA_FILE");
}

}  // namespace

void add_remote_options(CLI::App& verb, Context& context, bool output) {
  auto& options = context.remote.options;
  take_environment(options);
  verb.add_option("--address", options.addresses,
                  "HOST:PORT of the server's RPC API; of a cluster, those of its routers; or "
                  "PLIMSOLL_ADDRESS")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  verb.add_option("--api-key", options.api_key, "better given as PLIMSOLL_API_KEY");
  verb.add_option("--ca-file", options.ca_file,
                  "PEM file of the server's CA: use TLS; or PLIMSOLL_CA_FILE");
  if (output) add_output_option(verb, context.remote.format);
}

void add_output_option(CLI::App& verb, OutputFormat& format) {
  verb.add_option("-o,--output", format, "table, json or yaml")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, OutputFormat>{{"table", OutputFormat::table},
                                              {"json", OutputFormat::json},
                                              {"yaml", OutputFormat::yaml}},
          CLI::ignore_case))
      ->option_text("table|json|yaml");
}

CLI::App* add_operator_verb(CLI::App& family, Context& context, const std::string& name,
                            const std::string& about,
                            std::function<int(client::Operator& cluster)> run) {
  auto* verb = family.add_subcommand(name, about);
  add_remote_options(*verb, context, true);
  verb->callback([&context, run = std::move(run)] {
    auto client = context.remote.connect();
    client::Operator cluster(client);
    context.exit_code = run(cluster);
  });
  return verb;
}

CLI::Option* add_time_option(CLI::App& verb, const std::string& flag,
                             std::chrono::milliseconds& target, const std::string& about) {
  return verb
      .add_option_function<std::string>(
          flag,
          [&target, flag](const std::string& text) {
            const auto value = parse_time_ms(text);
            if (!value) throw CLI::ValidationError(flag, value.error().message);
            target = std::chrono::milliseconds(*value);
          },
          about)
      ->option_text("TIME")
      ->default_str(show_quantity(static_cast<std::uint64_t>(target.count()), time_units));
}

std::string pick_model(client::Client& client, const std::string& asked, const std::string& kind) {
  if (!asked.empty()) return asked;
  std::string names;
  std::string found;
  int count = 0;
  for (const auto& model : client.models()) {
    if (model.kind != kind) continue;
    names += (names.empty() ? "" : ", ") + model.name;
    if (++count == 1) found = model.name;
  }
  if (count == 1) return found;
  throw client::Error("invalid_argument",
                      count == 0
                          ? "the server has no model for this"
                          : "the server has several models; choose one with --model: " + names);
}

namespace {

int exit_code_of(const client::Error& error) {
  if (error.code == "unavailable") return exit_unavailable;
  if (error.code == "internal") return exit_failure;
  return exit_refused;
}

}  // namespace

int run(CLI::App& app, Context& context, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? exit_ok : exit_usage;
  } catch (const client::Error& e) {
    fmt::print(stderr, "plimsoll: {}\n", e.what());
    if (e.retry_after_ms > 0) fmt::print(stderr, "try again in {} ms\n", e.retry_after_ms);
    return exit_code_of(e);
  } catch (const std::exception& e) {
    fmt::print(stderr, "plimsoll: {}\n", e.what());
    return exit_failure;
  }
  return context.exit_code;
}

}  // namespace plimsoll::cli
