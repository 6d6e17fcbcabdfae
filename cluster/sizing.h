// The capacity model: what a process will need at its peak, under the limit that it has, and what
// is left for KV and caches. Or why it cannot be, and which setting would make it fit.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/pressure.h"

namespace plimsoll::cluster {

// A limit that the plan has to fit under.
struct SizingLimit {
  Scope scope = Scope::machine;
  std::uint64_t limit_bytes = 0;
  // What others hold under it, and what the kernel holds for them.
  std::uint64_t others_bytes = 0;
};

// Kept free, so that a process that uses all of its plan stays below `orange`: nothing is shed for
// a pool that is full.
std::uint64_t reserve_bytes(const PressureConfig& config, std::uint64_t limit_bytes);

// The one that leaves least for the plan. `limits` is not empty.
SizingLimit tightest(const PressureConfig& config, const std::vector<SizingLimit>& limits);

struct PlanRow {
  std::string component;  // as the ledger names it
  std::string what;       // of it: a model's name, "request bodies"
  std::uint64_t bytes = 0;
  std::string why;  // the arithmetic
};

// The KV pool of one text model.
struct KvNeed {
  std::string model;
  std::uint64_t token_bytes = 0;
  std::uint64_t least_bytes = 0;           // holds one sequence of the longest context
  std::uint64_t most_bytes = 0;            // more would never be used
  std::optional<std::uint64_t> set_bytes;  // as configured; none: what is left
};

struct SizingNeeds {
  std::vector<PlanRow> rows;  // of anonymous memory, at its peak, but for KV
  std::vector<KvNeed> kv;
};

// A setting that may be lowered to make a plan fit.
struct SizingKnob {
  std::string key;  // "engine.max_batch"
  std::uint64_t value = 0;
  std::uint64_t least = 0;
  std::uint64_t step = 1;                            // only least + n × step are proposed
  std::function<std::string(std::uint64_t)> text{};  // as the configuration writes it
};

struct SizingProblem {
  SizingLimit limit;
  PressureConfig pressure{};  // says what is kept free
  // Of what is left, the part that pools without a size of their own may take. Under 1 where
  // nobody said how much of a machine is for this process.
  double kv_share = 1;
  std::vector<SizingKnob> knobs;
  // What the values of the knobs, in their order, come to. Lower values never need more.
  std::function<SizingNeeds(const std::vector<std::uint64_t>& values)> needs;
};

struct KvPlan {
  std::string model;
  std::uint64_t bytes = 0;
  std::string why;
};

struct MemoryPlan {
  SizingLimit limit;
  std::uint64_t reserve_bytes = 0;
  std::vector<PlanRow> rows;
  std::vector<KvPlan> kv;
  std::uint64_t peak_bytes = 0;     // of this process: rows and KV
  std::uint64_t mapped_bytes = 0;   // files besides, that want to be in the page cache
  std::uint64_t missing_bytes = 0;  // over 0: it does not fit
  std::uint64_t enough_bytes = 0;   // if so: a limit under which it does
  // If so: "engine.max_batch to 12", each of them enough; one that names several settings means
  // all of them together.
  std::vector<std::string> remedies;
};

// "96 MiB", in the largest unit that leaves at least 1; with a tenth below 10.
std::string mebibytes_text(std::uint64_t bytes);

MemoryPlan plan_memory(const SizingProblem& problem);

// A sentence with the arithmetic of a plan that does not fit.
std::string refusal_text(const MemoryPlan& plan);
// A table, a line a row, for who starts the process.
std::string plan_table(const MemoryPlan& plan);

}  // namespace plimsoll::cluster
