// simulate: runs seeded simulations of a cluster, and says how to run one that fails again.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <optional>

#include "tests/cluster/simulation/scenario.h"

using namespace plimsoll::simulation;

namespace {

bool run(const Options& options, bool prints) {
  const auto start = std::chrono::steady_clock::now();
  try {
    const Figures figures = Scenario(options).run();
    if (prints) {
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      const auto& clients = figures.clients;
      fmt::print(
          "seed {}: {} streams, {} sequences complete, {} tokens, {} refusals, {} failures, {} "
          "went "
          "on at another router; {} faults, {} events in {:.1f} s\n",
          options.seed, clients.streams, clients.complete, clients.tokens, clients.refused,
          clients.failed, clients.resumed, figures.faults, figures.events, took.count());
      for (const auto& [reason, count] : clients.reasons) fmt::print("  {} {}\n", reason, count);
    }
    return true;
  } catch (const Violation& violation) {
    fmt::print("VIOLATION with seed {}: {}\n  again, with every step: simulate {} --trace\n",
               options.seed, violation.what, options.arguments());
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Seeded simulations of a cluster: routers, nodes, tenants, and what goes wrong");
  Options options;
  std::uint64_t seeds = 0;
  double hours = 0;
  app.add_option("--seeds", seeds, "so many small clusters of chance, from --seed on");
  app.add_option("--seed", options.seed);
  app.add_option("--routers", options.routers)->check(CLI::Range(1, 64));
  app.add_option("--nodes", options.nodes)->check(CLI::Range(1, 100000));
  app.add_option("--tenants", options.tenants)->check(CLI::Range(1, 1000000));
  app.add_option("--seconds", options.seconds, "simulated, with load and faults");
  app.add_option("--hours", hours, "the same, in hours");
  app.add_option("--requests", options.requests, "a second");
  app.add_option("--faults", options.faults, "a second");
  app.add_flag("--flood", options.flood, "two equal tenants, of which one floods");
  app.add_flag("--trace", options.trace, "say what happens");
  CLI11_PARSE(app, argc, argv);
  if (hours > 0) options.seconds = hours * 3600;
  if (options.flood) options.tenants = 2;
  if (seeds == 0) return run(options, true) ? 0 : 1;
  std::uint64_t failed = 0;
  for (std::uint64_t i = 0; i < seeds; ++i) {
    Options small = Options::small(options.seed + i);
    small.trace = options.trace;
    failed += run(small, options.trace) ? 0 : 1;
  }
  fmt::print("{} of {} seeds hold every invariant\n", seeds - failed, seeds);
  return failed == 0 ? 0 : 1;
}
