// What a request costs a router before it goes anywhere: choosing among so many nodes.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/placement.h"
#include "cluster/prefix_map.h"

namespace plimsoll::cluster {
namespace {

void place_among(benchmark::State& state) {
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < state.range(0); ++i) names.push_back("node-" + std::to_string(i));
  std::vector<PlacementNode> nodes;
  std::uint32_t load = 0;
  for (const auto& name : names) nodes.push_back({.name = name, .load = load++ % 32});
  const auto home = home_size(1, 100, nodes.size());
  for (auto _ : state) benchmark::DoNotOptimize(place("tenant", nodes, home));
}
BENCHMARK(place_among)->Arg(1)->Arg(64)->Arg(1000)->Arg(10'000);

void prefix_of_2048_tokens(benchmark::State& state) {
  const std::vector<std::int32_t> prompt(2048, 7);
  PrefixMap map;
  map.sent("node-1", prefix_hashes("tenant", "model", prompt));
  for (auto _ : state) {
    const auto hashes = prefix_hashes("tenant", "model", prompt);
    benchmark::DoNotOptimize(map.held("node-1", hashes));
  }
}
BENCHMARK(prefix_of_2048_tokens);

}  // namespace
}  // namespace plimsoll::cluster
