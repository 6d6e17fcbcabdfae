// What became of the requests of a run.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/scorecard/histogram.h"
#include "cli/scorecard/workload.h"

namespace plimsoll::cli::scorecard {

// One request's end.
struct Outcome {
  double late_s = 0;  // it began that much after its time
  double end_to_end_s = 0;
  std::optional<double> first_token_s;
  // Waits between pieces, and how many tokens the later piece has: they share the wait.
  std::vector<std::pair<double, std::uint32_t>> gaps;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;
  std::uint32_t generated_tokens = 0;
  std::string refusal;  // why it was refused, or broke off; empty: it finished
};

struct Objectives {
  double ttft_s = 1;
  double itl_s = 0.1;
};

struct Counts {
  std::uint64_t sent = 0;
  std::uint64_t finished = 0;
  std::uint64_t refused = 0;  // before its first token
  std::uint64_t broken = 0;   // after it
  // Of those that finished:
  std::uint64_t good = 0;  // within the objectives
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t generated_tokens = 0;
};

struct Latency {
  Histogram ttft, itl, end_to_end;  // of what finished
  Histogram refusal;                // how soon the others heard of it
};

class Tally {
 public:
  Tally(Objectives objectives, std::size_t traffic) : objectives_(objectives), traffic_(traffic) {}

  void add(const Request& request, const Outcome& outcome);
  // It was due, and as many as may be were open.
  void add_not_sent() { ++not_sent_; }

  struct Group {
    Counts counts;
    Latency latency;
  };
  const Group& all() const { return all_; }
  const std::vector<Group>& traffic() const { return traffic_; }
  const std::map<std::uint32_t, Counts>& tenants() const { return tenants_; }
  const std::map<std::string, std::uint64_t>& refusals() const { return refusals_; }  // by reason
  const Histogram& lateness() const { return lateness_; }
  std::uint64_t not_sent() const { return not_sent_; }

 private:
  Objectives objectives_;
  Group all_;
  std::vector<Group> traffic_;
  std::map<std::uint32_t, Counts> tenants_;
  std::map<std::string, std::uint64_t> refusals_;
  Histogram lateness_;
  std::uint64_t not_sent_ = 0;
};

}  // namespace plimsoll::cli::scorecard
