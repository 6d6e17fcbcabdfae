// plimsoll events: what the nodes' memory governors saw and did.
#include <fmt/format.h>

#include <condition_variable>
#include <mutex>

#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using client::Event;

Json to_json(const Event& e) {
  return {{"id", e.id},
          {"unix_seconds", e.unix_seconds},
          {"node", e.node},
          {"kind", e.kind},
          {"level", e.level},
          {"tenant", e.tenant},
          {"model", e.model},
          {"cause", e.cause},
          {"bytes", e.bytes},
          {"count", e.count},
          {"used_bytes", e.used_bytes},
          {"limit_bytes", e.limit_bytes}};
}

// Fixed widths, so that the lines that follow stand below the ones that were printed.
constexpr const char* columns = "{:<20}  {:<12}  {:<8}  {:<6}  {:<14}  {:<14}  {:>6}  {:>10}  {}\n";

std::string line(const Event& e) {
  const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text; };
  return fmt::format(fmt::runtime(columns), utc(static_cast<std::uint64_t>(e.unix_seconds)), e.node,
                     e.kind, e.level, or_dash(e.tenant), or_dash(e.model), e.count,
                     e.bytes == 0 ? "-" : human_bytes(static_cast<std::int64_t>(e.bytes)), e.cause);
}

void print(const std::vector<Event>& events, OutputFormat format) {
  if (format == OutputFormat::yaml && !events.empty()) {
    Json list = Json::array();
    for (const auto& event : events) list.push_back(to_json(event));
    fmt::print("---\n{}", to_text(list, format));
  }
  for (const auto& event : events) {
    if (format == OutputFormat::table) fmt::print("{}", line(event));
    if (format == OutputFormat::json) fmt::print("{}\n", to_json(event).dump());
  }
  std::fflush(stdout);
}

// An event is printed when it was there a second ago already: until then it may grow.
int follow(client::Operator& cluster, client::EventQuery query, OutputFormat format) {
  const Interrupt interrupt;
  std::mutex mutex;
  std::condition_variable_any never;
  std::uint64_t seen = ~std::uint64_t{0};  // those that were there before are as they are
  while (!interrupt.happened()) {
    auto events = cluster.events(query);
    const auto last = events.empty() ? query.after : events.back().id;
    std::erase_if(events, [&](const Event& event) { return event.id > seen; });
    print(events, format);
    if (!events.empty()) query.after = events.back().id;
    query.limit = 4096;
    seen = last;
    std::unique_lock lock(mutex);
    never.wait_for(lock, interrupt.token(), std::chrono::seconds(1), [] { return false; });
  }
  return exit_ok;
}

}  // namespace

void add_events(CLI::App& app, Context& context) {
  struct Options {
    client::EventQuery query;
    bool follow = false;
  };
  auto options = std::make_shared<Options>();
  auto* verb = add_operator_verb(
      app, context, "events", "what the memory governors saw and did (operator's key)",
      [options, &context](client::Operator& cluster) {
        const auto format = context.remote.format;
        if (format == OutputFormat::table) {
          fmt::print(fmt::runtime(columns), "TIME", "NODE", "KIND", "LEVEL", "TENANT", "MODEL",
                     "COUNT", "BYTES", "CAUSE");
        }
        if (options->follow) return follow(cluster, options->query, format);
        print(cluster.events(options->query), format);
        return static_cast<int>(exit_ok);
      });
  verb->add_flag("-f,--follow", options->follow, "and those that come, until Ctrl-C");
  verb->add_option("--tenant", options->query.tenant, "only those that hit it");
  verb->add_option("--node", options->query.node, "only those of it");
  const char* kinds = "level|evict|preempt|cancel|refuse|purge|alarm|oom_kill";
  verb->add_option("--kind", options->query.kind, "only those of it")
      ->check(CLI::IsMember(CLI::detail::split(kinds, '|')))
      ->option_text(kinds);
  verb->add_option("--limit", options->query.limit, "the newest that were there before")
      ->capture_default_str();
}

}  // namespace plimsoll::cli
