#include "cli/scorecard/tally.h"

namespace plimsoll::cli::scorecard {

namespace {

constexpr std::size_t most_reasons = 64;  // a server's word is not trusted to be one of a few

bool within(const Outcome& o, const Objectives& objectives) {
  if (o.first_token_s.value_or(o.end_to_end_s) > objectives.ttft_s) return false;
  double waited = 0;
  std::uint64_t tokens = 0;
  for (const auto& [gap, count] : o.gaps) {
    waited += gap;
    tokens += count;
  }
  return tokens == 0 || waited / static_cast<double>(tokens) <= objectives.itl_s;
}

void add_counts(Counts& counts, const Outcome& o, bool good) {
  ++counts.sent;
  if (!o.refusal.empty()) {
    ++(o.first_token_s ? counts.broken : counts.refused);
    return;
  }
  ++counts.finished;
  counts.good += good ? 1 : 0;
  counts.prompt_tokens += o.prompt_tokens;
  counts.cached_tokens += o.cached_tokens;
  counts.generated_tokens += o.generated_tokens;
}

void add_latency(Latency& latency, const Outcome& o) {
  if (!o.refusal.empty()) {
    latency.refusal.add(o.end_to_end_s);
    return;
  }
  latency.ttft.add(o.first_token_s.value_or(o.end_to_end_s));
  latency.end_to_end.add(o.end_to_end_s);
  for (const auto& [gap, count] : o.gaps) latency.itl.add(gap / count, count);
}

}  // namespace

void Tally::add(const Request& request, const Outcome& outcome) {
  const bool good = outcome.refusal.empty() && within(outcome, objectives_);
  lateness_.add(outcome.late_s);
  for (auto* group : {&all_, &traffic_.at(request.traffic)}) {
    add_counts(group->counts, outcome, good);
    add_latency(group->latency, outcome);
  }
  add_counts(tenants_[request.tenant], outcome, good);
  if (outcome.refusal.empty()) return;
  const bool known = refusals_.count(outcome.refusal) > 0 || refusals_.size() < most_reasons;
  ++refusals_[known ? outcome.refusal : "other"];
}

}  // namespace plimsoll::cli::scorecard
