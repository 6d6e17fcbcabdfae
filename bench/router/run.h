// One run of the router's bench.
#pragma once

#include <cstdint>

#include "bench/router/tally.h"

namespace plimsoll::router_bench {

struct Report {
  std::uint64_t streams = 0, skipped = 0, wrong = 0, failed = 0, short_of = 0;
  double offered = 0, tokens_per_second = 0, p50_ms = 0, p99_ms = 0;
  double cpu_us = 0;       // of processor time for each token, without the engines'
  double node_cpu_us = 0;  // of the nodes' processes for each token, the engines included
  double rss_mib = 0;      // the most so far, less the bench's own table
  bool all_ended = false;
};

// Not while this process has other threads: nodes in processes of their own are forked off.
Report run(const Options& options);

}  // namespace plimsoll::router_bench
