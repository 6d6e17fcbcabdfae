// Sends a stream of requests to a cluster, each at its time, whatever becomes of those before it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "cli/scorecard/memory_log.h"
#include "cli/scorecard/tally.h"
#include "cli/scorecard/workload.h"
#include "client/client.h"
#include "client/operator.h"
#include "engine/base/result.h"

namespace plimsoll::cli::scorecard {

struct TenantKey {
  std::string name;
  std::string api_key;
};

struct RunOptions {
  client::Options server;       // of the operator: memory is asked for with its key
  std::vector<TenantKey> keys;  // dealt out to the traffic's tenants in turn; empty: the operator's
  client::Model model;          // for what generates, if anything does
  client::Model embedding_model;
  std::uint64_t seed = 0;
  double duration_s = 30;      // nothing starts after it
  std::uint64_t requests = 0;  // that are taken of the stream at most; 0: no limit
  std::uint32_t open = 256;    // requests at a time
  std::size_t traffic = 1;     // how many kinds of it the requests name
  Objectives objectives;
  std::chrono::milliseconds sample{200};  // between two looks at the memory
  bool memory = true;                     // false: no operator's rights are needed
};

struct Measured {
  Tally tally;
  MemoryLog memory;
  double seconds = 0;             // from the first request's time until the last one has ended
  std::uint64_t cut = 0;          // requests that were cut to the model's context
  std::uint64_t fingerprint = 0;  // of what was due: the same for the same traffic
  // What the cluster's own books say of the run, by tenant.
  std::vector<client::TenantUsage> usage;
};

// Returns when every request has ended. After `stop` those that run are cancelled. Throws
// client::Error if there is no server, or no right to ask for its memory. Errors: those of
// `source`.
Result<Measured> run(Source& source, const RunOptions& options, std::stop_token stop);

// What was used between two looks.
std::vector<client::TenantUsage> difference(const std::vector<client::TenantUsage>& before,
                                            std::vector<client::TenantUsage> after);

}  // namespace plimsoll::cli::scorecard
