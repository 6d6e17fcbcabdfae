// A scorecard: what a run has shown, with all that is needed to repeat it.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/scorecard/machine.h"
#include "cli/scorecard/quality.h"
#include "cli/scorecard/run.h"
#include "engine/base/result.h"

namespace plimsoll::cli::scorecard {

using Json = nlohmann::ordered_json;

// In any currency.
struct Prices {
  double machine_hour = 0;     // of all machines together
  double memory_gib_hour = 0;  // of the memory that must be there: the peak of what was used
};

// (machine_hour + memory_gib_hour × GiB) × hours × 1,000 / requests; 0 of no requests.
double cost_of_1000(const Prices& prices, double gib, double hours, std::uint64_t requests);

struct Card {
  Json source;        // {"mix": ...} or {"trace": ...}
  std::string label;  // its user's words
  double length_scale = 1;
  std::string server_version;
  std::string client_version;
  std::uint64_t unix_seconds = 0;
  std::uint32_t nodes = 0;
  std::uint64_t memory_limit_bytes = 0;  // of all nodes
  Machine machine;
  Prices prices;
  std::optional<Quality> quality;
};

// Field names carry their units, and stay. "schema" changes when one of them changes its meaning.
Json report(const Card& card, const RunOptions& options, const Measured& measured);

// Of a scorecard's text. Errors: malformed, with `file`.
Result<Json> parse_scorecard(const std::string& text, const std::string& file);
// For people. Errors: malformed: a field is missing.
Result<std::string> table(const Json& scorecard);

}  // namespace plimsoll::cli::scorecard
