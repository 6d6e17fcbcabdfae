// Traces of real traffic, as they were published: when requests came, and how long they were.
//
//   Azure LLM inference (2023, 2024): CSV with a header
//     TIMESTAMP,ContextTokens,GeneratedTokens
//     2023-11-16 18:17:03.9799600,4808,10            (2024: 2024-05-10 00:00:00.009930+00:00,...)
//   Mooncake: one JSON object a line; each hash id is a block of 512 tokens, the same wherever it
//   is
//     {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}
#pragma once

#include <istream>
#include <memory>

#include "cli/scorecard/workload.h"

namespace plimsoll::cli::scorecard {

struct TraceOptions {
  double speed = 1;         // 2: twice as fast
  double length_scale = 1;  // of all lengths, and so of the shared blocks
  // Traces do not say whose a request is: it is drawn.
  Tenants tenants;
  std::uint64_t seed = 0;
};

// Reads `in`, which outlives it, as it goes: a line of it at a time is in memory. The first line
// tells the format. A request that the file has after a later one comes with that one.
// Errors, here and of next(): malformed, with `file` and the line.
Result<std::unique_ptr<Source>> open_trace(std::istream& in, const std::string& file,
                                           const TraceOptions& options);

}  // namespace plimsoll::cli::scorecard
