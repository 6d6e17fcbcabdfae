// How one scorecard differs from another.
#pragma once

#include <string>
#include <vector>

#include "cli/scorecard/report.h"

namespace plimsoll::cli::scorecard {

struct Difference {
  std::string metric;  // "p99_ttft"
  std::string unit;    // ms, bytes or nothing
  bool more_is_better = false;
  double before = 0;
  double after = 0;
  double ratio = 1;  // after / before
};

struct Comparison {
  std::vector<Difference> metrics;  // that both have
  // What was not the same for both: "seed: 1 -> 2".
  std::vector<std::string> conditions;
};

// Errors: malformed: a field is missing.
Result<Comparison> compare(const Json& before, const Json& after);

// "p99_ttft>1.2": the ratio of a metric, and the bound that it shall not pass.
struct Threshold {
  std::string text;
  std::string metric;
  bool above = true;  // false: it fails below the bound
  double bound = 0;
};
// Errors: invalid_argument, with the metrics that there are.
Result<Threshold> parse_threshold(const std::string& text);
// Whether it is passed. Errors: failed_precondition: the scorecards do not have the metric.
Result<bool> passed(const Threshold& threshold, const Comparison& comparison);

Json to_json(const Comparison& comparison);
std::string table(const Comparison& comparison);

}  // namespace plimsoll::cli::scorecard
