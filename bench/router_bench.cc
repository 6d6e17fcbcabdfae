// How far one router goes: nodes with pretended engines, streams through the real router actor to
// real sinks, at an offered rate that does not wait for the answers.
//
// Latency is taken from a table beside the messages: the engine notes when it emits each token,
// the sink looks that up when the token has come.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "bench/router/run.h"

namespace plimsoll::router_bench {
namespace {

void print_head() {
  fmt::print("{:>5} {:>7} {:>9} {:>9} {:>6} {:>8} {:>8} {:>8} {:>7} {:>8} {:>5}\n", "nodes",
             "streams", "offered/s", "tokens/s", "eff.", "p50 ms", "p99 ms", "cpu us", "node us",
             "rss MiB", "shed");
}

void print(const Options& options, const Report& r) {
  fmt::print(
      "{:>5} {:>7} {:>9.0f} {:>9.0f} {:>5.1f}% {:>8.3f} {:>8.3f} {:>8.2f} {:>7.2f} {:>8.1f} "
      "{:>5}\n",
      options.nodes, static_cast<std::uint32_t>(options.nodes) * options.streams, r.offered,
      r.tokens_per_second, 100 * r.tokens_per_second / r.offered, r.p50_ms, r.p99_ms, r.cpu_us,
      r.node_cpu_us, r.rss_mib, r.skipped);
  std::fflush(stdout);
}

bool good(const Report& r) {
  if (r.wrong == 0 && r.failed == 0 && r.short_of == 0 && r.all_ended) return true;
  fmt::print("FAILED: {} wrong tokens, {} failed streams, {} streams with tokens missing{}\n",
             r.wrong, r.failed, r.short_of, r.all_ended ? "" : ", and not every stream ended");
  return false;
}

// Every token of every stream once and in order, every way, with credit that runs out.
bool smoke(Options options) {
  options.nodes = 3;
  options.streams = 8;
  options.step_us = 500;
  options.step_tokens = 3;
  options.length = 64;
  options.window = 16;
  options.warmup = 0;
  options.total = 100;
  bool all_good = true;
  print_head();
  for (const int mode : {0, 1, 2}) {
    options.frontend = mode == 1;
    options.processes = mode == 2 ? 2 : 0;
    const auto report = run(options);
    print(options, report);
    all_good = good(report) && report.streams == options.total && all_good;
  }
  return all_good;
}

}  // namespace
}  // namespace plimsoll::router_bench

int main(int argc, char** argv) {
  using namespace plimsoll::router_bench;
  spdlog::set_level(spdlog::level::err);
  Options options;
  std::vector<int> nodes{1};
  bool run_smoke = false;
  CLI::App app("Measures the router actor with nodes that only pretend to compute.");
  app.add_flag("--smoke", run_smoke, "A short run that checks that every token arrives once");
  app.add_option("--nodes", nodes, "Numbers of nodes, one run each")->delimiter(',');
  app.add_option("--streams", options.streams, "Streams that run on each node");
  app.add_option("--step-us", options.step_us, "Microseconds of an engine's step");
  app.add_option("--step-tokens", options.step_tokens, "Tokens of each stream in a step");
  app.add_option("--length", options.length, "Tokens of a stream");
  app.add_option("--window", options.window, "Tokens that a reader may be behind");
  app.add_option("--seconds", options.seconds, "Measured time of a run");
  app.add_option("--warmup", options.warmup, "Seconds before it");
  app.add_option("--threads", options.threads, "Threads of the actor system");
  app.add_option("--processes", options.processes,
                 "Nodes in so many processes of their own, over loopback");
  app.add_flag("--tls", options.tls, "Mutual TLS between the processes");
  app.add_flag("--frontend", options.frontend, "Through the frontend, as text");
  CLI11_PARSE(app, argc, argv);
  if (run_smoke) return smoke(options) ? 0 : 1;
  bool all_good = true;
  print_head();
  for (const int count : nodes) {
    options.nodes = count;
    const auto report = run(options);
    print(options, report);
    all_good = good(report) && all_good;
  }
  return all_good ? 0 : 1;
}
