// What routers and nodes of the simulation say to each other, and what a stream's tokens are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/health.h"
#include "cluster/router.h"

namespace plimsoll::simulation {

// The whole answer to a request follows from its seed, whichever node computes it.
inline std::int32_t token_at(std::uint64_t seed, std::uint64_t position) {
  std::uint64_t h = (seed ^ (position * 0x9e3779b97f4a7c15ULL)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 29)) * 0x94d049bb133111ebULL;
  return static_cast<std::int32_t>(h >> 34);
}

struct Run {
  cluster::RunId id = 0;
  std::uint64_t seed = 0;
  std::uint32_t length = 0;  // tokens of the whole answer
  std::uint32_t credit = 0;
  std::vector<std::int32_t> resumed;
};
struct Start {
  std::string tenant;
  double weight = 1;
  std::uint32_t prompt_tokens = 1;
  double deadline_s = 0;  // from when it is sent
  std::vector<Run> runs;
};

enum class Finish : std::uint8_t { none, complete, cancelled, deadline, unavailable, exhausted };
struct RunEvent {
  cluster::RunId run = 0;
  std::vector<std::int32_t> tokens;
  Finish finish = Finish::none;
};
struct Report {
  cluster::Beat beat;
  bool draining = false;
};

}  // namespace plimsoll::simulation
