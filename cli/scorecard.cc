// plimsoll scorecard: runs traffic against a cluster and says what became of it and of the memory.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <sstream>

#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/scorecard/compare.h"
#include "cli/scorecard/mix.h"
#include "cli/scorecard/report.h"
#include "cli/scorecard/run.h"
#include "cli/scorecard/trace.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using namespace scorecard;

constexpr std::size_t most_keys = 256;  // each has a connection

struct Options {
  std::string mix = "chat";
  std::string mix_file, trace;
  double rate = 0;  // 0: the mix's own
  double speed = 1;
  double length_scale = 1;
  std::uint32_t tenants = 4;
  std::uint64_t seed = 1;
  std::chrono::milliseconds duration{0};  // 0: 30 s of a mix, all of a trace
  std::uint64_t limit = 0;
  std::uint32_t open = 256;
  std::string keys, model, embedding_model;
  double ttft_ms = 1000;
  double itl_ms = 100;
  std::chrono::milliseconds sample{200};
  bool no_memory = false;
  bool quality = false;
  Prices prices;
  std::string label, save;
};

// The files and names on the command line are its user's: what is wrong with them is wrong usage.
CLI::ValidationError wrong(const std::string& message) {
  return CLI::ValidationError("scorecard", message);
}

template <class T>
T value_of(Result<T> result) {
  if (!result) throw wrong(result.error().message);
  return std::move(*result);
}

std::string read_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad()) throw wrong("cannot read " + file);
  return text;
}

// "NAME KEY" a line; # begins a comment.
std::vector<TenantKey> read_keys(const std::string& file) {
  std::vector<TenantKey> keys;
  if (file.empty()) return keys;
  std::istringstream in(read_file(file));
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    std::istringstream words(line.substr(0, line.find('#')));
    const std::vector<std::string> parts{std::istream_iterator<std::string>(words), {}};
    if (parts.empty()) continue;
    if (parts.size() != 2 || keys.size() == most_keys) {
      throw wrong(fmt::format("{}:{}: {}", file, number,
                              parts.size() != 2 ? "not a tenant's name and its key"
                                                : fmt::format("more than {} keys", most_keys)));
    }
    keys.push_back({parts[0], parts[1]});
  }
  if (keys.empty()) throw wrong(file + " has no keys");
  return keys;
}

// What is sent, and what of it is recorded.
struct Plan {
  std::unique_ptr<std::istream> file;  // of a trace
  std::unique_ptr<Source> source;
  Json recorded;
  std::size_t traffic = 1;
  bool generates = false;
  bool embeds = false;
};

Plan plan(const Options& options) {
  Plan plan;
  if (!options.trace.empty()) {
    plan.file = std::make_unique<std::ifstream>(options.trace, std::ios::binary);
    if (!*plan.file) throw wrong("cannot read " + options.trace);
    TraceOptions how;
    how.speed = options.speed;
    how.length_scale = options.length_scale;
    how.tenants.count = options.tenants;
    how.seed = options.seed;
    plan.source = value_of(open_trace(*plan.file, options.trace, how));
    plan.generates = true;
    plan.recorded = {{"trace",
                      {{"file", options.trace.substr(options.trace.rfind('/') + 1)},
                       {"speed", options.speed},
                       {"tenants", options.tenants}}}};
    return plan;
  }
  auto mix =
      value_of(options.mix_file.empty() ? named_mix(options.mix)
                                        : parse_mix(read_file(options.mix_file), options.mix_file));
  if (options.rate > 0) mix.arrivals.rate = options.rate;
  plan.traffic = mix.traffic.size();
  for (const auto& traffic : mix.traffic) {
    plan.generates = plan.generates || !traffic.embed;
    plan.embeds = plan.embeds || traffic.embed;
  }
  plan.recorded = {{"mix", scorecard::to_json(mix)}};
  plan.source = std::make_unique<MixSource>(std::move(mix), options.seed, options.length_scale);
  return plan;
}

client::Model find_model(client::Client& client, const std::string& asked,
                         const std::string& kind) {
  const auto name = pick_model(client, asked, kind);
  for (auto& model : client.models()) {
    if (model.name != name) continue;
    if (model.kind != kind) {
      throw client::Error("invalid_argument", fmt::format("{} is a model of the kind {}, not {}",
                                                          name, model.kind, kind));
    }
    if (kind == "causal" && model.vocabulary_tokens == 0) {
      throw client::Error("unsupported",
                          "the server is older than this program: it does not tell the size of the "
                          "model's vocabulary");
    }
    return model;
  }
  throw client::Error("not_found", "no model named '" + name + "'");
}

RunOptions run_options(const Options& options, const Remote& remote, const Plan& plan,
                       client::Client& client) {
  RunOptions out;
  out.server = remote.options;
  out.keys = read_keys(options.keys);
  if (plan.generates) out.model = find_model(client, options.model, "causal");
  if (plan.embeds) out.embedding_model = find_model(client, options.embedding_model, "embedding");
  out.seed = options.seed;
  out.duration_s = static_cast<double>(options.duration.count()) / 1000;
  if (options.duration.count() == 0) out.duration_s = options.trace.empty() ? 30 : 1e9;
  out.requests = options.limit;
  out.open = options.open;
  out.traffic = plan.traffic;
  out.objectives = {options.ttft_ms / 1000, options.itl_ms / 1000};
  out.sample = options.sample;
  out.memory = !options.no_memory;
  return out;
}

void describe(client::Client& client, Card& card) {
  card.server_version = client.status().version;
  for (const auto& node : client::Operator(client).view().nodes) {
    ++card.nodes;
    card.memory_limit_bytes += node.memory_limit_bytes;
  }
}

int send_and_report(const Options& options, const Remote& remote) {
  Plan what = plan(options);
  auto client = remote.connect();
  const auto how = run_options(options, remote, what, client);
  Card card;
  card.source = what.recorded;
  card.label = options.label;
  card.length_scale = options.length_scale;
  card.client_version = PLIMSOLL_VERSION;
  card.server_version = "unknown";
  card.unix_seconds = static_cast<std::uint64_t>(
      std::chrono::system_clock::to_time_t(std::chrono::system_clock::now()));
  card.machine = this_machine();
  card.prices = options.prices;

  const Interrupt interrupt;
  if (isatty(STDERR_FILENO) == 1) {
    fmt::print(stderr, "Sending; Ctrl-C cancels what is open and ends without a scorecard.\n");
  }
  const auto measured = value_of(scorecard::run(*what.source, how, interrupt.token()));
  if (interrupt.happened()) return exit_interrupted;
  if (how.memory) describe(client, card);  // by now each node has reported
  if (options.quality && what.generates) card.quality = measure_quality(client, how.model.name);

  const Json result = report(card, how, measured);
  if (!options.save.empty()) {
    std::ofstream out(options.save, std::ios::binary);
    out << result.dump(2) << "\n" << std::flush;
    if (!out) throw std::runtime_error("cannot write " + options.save);
  }
  return show(remote, false, [&]() -> View { return {result, value_of(table(result))}; });
}

int compare_files(const std::vector<std::string>& files, const std::vector<std::string>& fail_if,
                  const Remote& remote) {
  std::vector<Threshold> thresholds;
  for (const auto& text : fail_if) thresholds.push_back(value_of(parse_threshold(text)));
  std::vector<Json> cards;
  for (const auto& file : files) cards.push_back(value_of(parse_scorecard(read_file(file), file)));
  const auto comparison = value_of(compare(cards.at(0), cards.at(1)));
  std::vector<std::string> failed;
  for (const auto& threshold : thresholds) {
    if (value_of(passed(threshold, comparison))) failed.push_back(threshold.text);
  }
  Json document = scorecard::to_json(comparison);
  document["failed"] = failed;
  std::string text = table(comparison);
  for (const auto& threshold : failed) text += "FAILED: " + threshold + "\n";
  show(remote, false, [&]() -> View { return {document, text}; });
  return failed.empty() ? exit_ok : exit_failure;
}

View mixes() {
  Table table({{"MIX"}, {"REQUESTS/S", true}, {"TENANTS", true}, {"WHAT"}});
  Json document = Json::array();
  for (const auto& mix : named_mixes()) {
    document.push_back(scorecard::to_json(mix));
    table.add({mix.name, fmt::format("{}", mix.arrivals.rate), std::to_string(tenants_of(mix)),
               mix.about});
  }
  return {document, table.text()};
}

void add_traffic_options(CLI::App& verb, Options& o) {
  verb.add_option("--mix", o.mix, "traffic by name; `scorecard mixes` lists them")
      ->capture_default_str();
  verb.add_option("--mix-file", o.mix_file, "a mix of your own: YAML, as `scorecard mixes -o yaml`")
      ->option_text("FILE")
      ->excludes("--mix");
  auto* trace =
      verb.add_option("--trace", o.trace, "an Azure (CSV) or Mooncake (JSON lines) trace instead")
          ->option_text("FILE")
          ->excludes("--mix")
          ->excludes("--mix-file");
  verb.add_option("--rate", o.rate, "requests a second; else the mix's own")
      ->check(CLI::Range(0.001, 100'000.0))
      ->excludes("--trace");
  verb.add_option("--speed", o.speed, "of the trace; 2 is twice as fast")
      ->check(CLI::Range(0.000'001, 1'000'000.0))
      ->needs(trace)
      ->capture_default_str();
  verb.add_option("--tenants", o.tenants, "to whom the trace's requests are dealt out")
      ->check(CLI::Range(1, 100'000))
      ->needs(trace)
      ->capture_default_str();
  verb.add_option("--length-scale", o.length_scale, "multiplies all lengths")
      ->check(CLI::Range(0.000'01, 1000.0))
      ->capture_default_str();
  verb.add_option("--seed", o.seed, "the same seed gives the same traffic")->capture_default_str();
  add_time_option(verb, "--duration", o.duration,
                  "nothing is sent after it; 0: 30s of a mix, all of a trace");
  verb.add_option("--limit", o.limit, "requests at most; 0: no limit")->capture_default_str();
  verb.add_option("--open", o.open, "requests at a time; one more is not sent, and counted")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  verb.add_option("--keys", o.keys, "a tenant's name and key a line; dealt out to the traffic's")
      ->option_text("FILE");
  verb.add_option("-m,--model", o.model, "needed if the server has several");
  verb.add_option("--embedding-model", o.embedding_model, "needed if the server has several");
}

void add_measure_options(CLI::App& verb, Options& o) {
  verb.add_option("--ttft-ms", o.ttft_ms, "objective: time to the first token")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--itl-ms", o.itl_ms, "objective: mean time between a request's tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_time_option(verb, "--sample", o.sample, "between two looks at the memory");
  verb.add_flag("--no-memory", o.no_memory, "do not ask for it: the key has no operator's rights");
  verb.add_flag("--quality", o.quality, "perplexity of a text, and answers to fixed tasks");
  verb.add_option("--machine-price-hour", o.prices.machine_hour, "of all machines together")
      ->check(CLI::NonNegativeNumber);
  verb.add_option("--memory-price-gib-hour", o.prices.memory_gib_hour, "of the memory's peak")
      ->check(CLI::NonNegativeNumber);
  verb.add_option("--label", o.label,
                  "your words for what the server does not tell, like \"int8 KV\"");
  verb.add_option("--save", o.save, "write the scorecard as JSON too")->option_text("FILE");
}

}  // namespace

void add_scorecard(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  auto* verb = app.add_subcommand(
      "scorecard", "send reproducible traffic, and measure what became of it (operator's key)");
  add_traffic_options(*verb, *options);
  add_measure_options(*verb, *options);
  add_remote_options(*verb, context, true);
  verb->require_subcommand(0, 1);
  verb->callback([verb, options, &context] {
    if (!verb->get_subcommands().empty()) return;
    if (options->sample.count() == 0) throw CLI::ValidationError("--sample", "0 is not a time");
    context.exit_code = send_and_report(*options, context.remote);
  });

  struct Files {
    std::vector<std::string> names;
    std::vector<std::string> fail_if;
  };
  auto files = std::make_shared<Files>();
  auto* compare = verb->add_subcommand("compare", "two saved scorecards side by side");
  compare->add_option("files", files->names, "the one before, the one after")
      ->required()
      ->expected(2)
      ->check(CLI::ExistingFile);
  compare
      ->add_option("--fail-if", files->fail_if,
                   "exit with 1 if a ratio passes a bound, like p99_ttft>1.2; may be repeated")
      ->allow_extra_args(false);
  add_output_option(*compare, context.remote.format);
  compare->callback([files, &context] {
    context.exit_code = compare_files(files->names, files->fail_if, context.remote);
  });

  auto file = std::make_shared<std::string>();
  auto* show_one = verb->add_subcommand("show", "a saved scorecard");
  show_one->add_option("file", *file)->required()->check(CLI::ExistingFile);
  add_output_option(*show_one, context.remote.format);
  show_one->callback([file, &context] {
    const auto card = value_of(parse_scorecard(read_file(*file), *file));
    context.exit_code = show(context.remote, false, [&]() -> View {
      return {card, value_of(table(card))};
    });
  });

  auto* list = verb->add_subcommand("mixes", "the named mixes, and what they are made of");
  add_output_option(*list, context.remote.format);
  list->callback([&context] { context.exit_code = show(context.remote, false, mixes); });
}

}  // namespace plimsoll::cli
