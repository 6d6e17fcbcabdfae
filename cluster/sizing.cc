#include "cluster/sizing.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace plimsoll::cluster {
namespace {

std::uint64_t less(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

std::vector<std::uint64_t> present_values(const SizingProblem& problem) {
  std::vector<std::uint64_t> values;
  for (const auto& knob : problem.knobs) values.push_back(knob.value);
  return values;
}

std::uint64_t budget_of(const SizingProblem& problem) {
  const auto& limit = problem.limit;
  return less(begins_at(problem.pressure, Level::orange, limit.limit_bytes), limit.others_bytes);
}

std::uint64_t sum_of(const std::vector<PlanRow>& rows) {
  std::uint64_t sum = 0;
  for (const auto& row : rows) sum += row.bytes;
  return sum;
}

// With the smallest pools that will do.
std::uint64_t least_of(const SizingNeeds& needs) {
  std::uint64_t sum = sum_of(needs.rows);
  for (const auto& kv : needs.kv) sum += kv.set_bytes.value_or(kv.least_bytes);
  return sum;
}

// The largest value of a knob under its present one with which it fits, the others being as they
// are in `values`.
std::optional<std::uint64_t> largest_that_fits(const SizingProblem& problem,
                                               std::vector<std::uint64_t> values,
                                               std::size_t index) {
  const SizingKnob& knob = problem.knobs[index];
  if (knob.value <= knob.least) return std::nullopt;
  const auto fits = [&](std::uint64_t steps) {
    values[index] = knob.least + steps * knob.step;
    return least_of(problem.needs(values)) <= budget_of(problem);
  };
  if (!fits(0)) return std::nullopt;
  std::uint64_t low = 0;  // fits
  std::uint64_t high = (knob.value - knob.least + knob.step - 1) / knob.step;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return knob.least + low * knob.step;
}

std::string proposal(const SizingKnob& knob, std::uint64_t value) {
  return knob.key + " to " + (knob.text ? knob.text(value) : std::to_string(value));
}

std::vector<std::string> find_remedies(const SizingProblem& problem) {
  std::vector<std::string> remedies;
  for (std::size_t i = 0; i < problem.knobs.size(); ++i) {
    const auto value = largest_that_fits(problem, present_values(problem), i);
    if (value) remedies.push_back(proposal(problem.knobs[i], *value));
  }
  if (!remedies.empty()) return remedies;
  // One alone is not enough: what does something is lowered as far as it goes, one after the other.
  auto values = present_values(problem);
  std::string together;
  for (std::size_t i = 0; i < problem.knobs.size(); ++i) {
    const SizingKnob& knob = problem.knobs[i];
    if (knob.value <= knob.least) continue;
    const auto enough = largest_that_fits(problem, values, i);
    const auto before = least_of(problem.needs(values));
    values[i] = enough.value_or(knob.least);
    if (least_of(problem.needs(values)) >= before) {
      values[i] = knob.value;
      continue;
    }
    together += (together.empty() ? "" : " and ") + proposal(knob, values[i]);
    if (enough) return {together};
  }
  return {};
}

// Divides `left` among the pools that have no size: so many tokens for each, but no pool gets more
// than it can use.
void divide(std::vector<KvNeed>& needs, std::uint64_t left, double share,
            std::vector<KvPlan>& out) {
  struct Open {
    std::size_t index;
    double tokens_most;
  };
  std::vector<Open> open;
  for (std::size_t i = 0; i < needs.size(); ++i) {
    if (needs[i].set_bytes) continue;
    out[i].bytes = needs[i].least_bytes;
    open.push_back({i, static_cast<double>(needs[i].most_bytes) /
                           static_cast<double>(std::max<std::uint64_t>(1, needs[i].token_bytes))});
  }
  // What the smallest pools take comes first; the share is of all that is there for pools.
  std::uint64_t least = 0;
  for (const auto& each : open) least += needs[each.index].least_bytes;
  auto total = static_cast<double>(left + least) * share;
  std::ranges::sort(open, {}, &Open::tokens_most);
  double rate = 0;  // bytes of a token in all pools that are still open
  for (const auto& each : open) rate += static_cast<double>(needs[each.index].token_bytes);
  for (const auto& each : open) {
    const KvNeed& need = needs[each.index];
    const double tokens = rate > 0 ? total / rate : 0;
    const double wanted =
        std::min(tokens, each.tokens_most) * static_cast<double>(need.token_bytes);
    const auto bytes = std::max(need.least_bytes, static_cast<std::uint64_t>(wanted));
    const bool all = tokens >= each.tokens_most;
    out[each.index].bytes = bytes;
    out[each.index].why = all         ? "as much as can be of use"
                          : share < 1 ? "a part of what is free"
                                      : "the rest";
    total = std::max(0.0, total - static_cast<double>(bytes));
    rate -= static_cast<double>(need.token_bytes);
  }
}

template <class... Values>
std::string sentence(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

const char* limit_name(Scope scope) {
  switch (scope) {
    case Scope::process: return "memory_limit";
    case Scope::cgroup: return "the cgroup's limit";
    case Scope::machine: return "the machine's memory";
  }
  return "?";
}

}  // namespace

std::uint64_t reserve_bytes(const PressureConfig& config, std::uint64_t limit_bytes) {
  return limit_bytes - begins_at(config, Level::orange, limit_bytes);
}

SizingLimit tightest(const PressureConfig& config, const std::vector<SizingLimit>& limits) {
  const auto left = [&](const SizingLimit& limit) {
    return static_cast<double>(begins_at(config, Level::orange, limit.limit_bytes)) -
           static_cast<double>(limit.others_bytes);
  };
  return *std::ranges::min_element(limits, {}, left);
}

std::string mebibytes_text(std::uint64_t bytes) {
  const double value = static_cast<double>(bytes) / (1 << 20);
  return sentence(value < 10 ? "%.1f MiB" : "%.0f MiB", value);
}

MemoryPlan plan_memory(const SizingProblem& problem) {
  MemoryPlan plan;
  plan.limit = problem.limit;
  plan.reserve_bytes = reserve_bytes(problem.pressure, problem.limit.limit_bytes);
  auto needs = problem.needs(present_values(problem));
  const std::uint64_t budget = budget_of(problem);
  const std::uint64_t least = least_of(needs);
  for (const auto& kv : needs.kv) {
    plan.kv.push_back({kv.model, kv.set_bytes.value_or(kv.least_bytes),
                       kv.set_bytes ? "as configured" : "one sequence of the longest context"});
  }
  if (least > budget) {
    plan.missing_bytes = least - budget;
    plan.remedies = find_remedies(problem);
    // The reserve grows with the limit.
    const std::uint64_t wanted = least + problem.limit.others_bytes;
    plan.enough_bytes = problem.limit.limit_bytes;
    while (begins_at(problem.pressure, Level::orange, plan.enough_bytes) < wanted) {
      plan.enough_bytes += wanted - begins_at(problem.pressure, Level::orange, plan.enough_bytes);
    }
  } else {
    divide(needs.kv, budget - least, problem.kv_share, plan.kv);
  }
  plan.rows = std::move(needs.rows);
  plan.peak_bytes = sum_of(plan.rows);
  for (const auto& kv : plan.kv) plan.peak_bytes += kv.bytes;
  return plan;
}

std::string refusal_text(const MemoryPlan& plan) {
  std::string remedies;
  for (const auto& remedy : plan.remedies) {
    remedies += (remedies.empty() ? "lower " : ", or ") + remedy;
  }
  remedies += remedies.empty() ? "raise the limit to " : ", or raise the limit to ";
  std::uint64_t kv = 0;
  for (const auto& each : plan.kv) kv += each.bytes;
  std::string others;
  if (plan.limit.others_bytes > 0) {
    others = sentence("%s that others use, ", mebibytes_text(plan.limit.others_bytes).c_str());
  }
  return sentence(
             "the plan needs %s more: of %s, %s, less %s%s of reserve, it takes %s, %s of "
             "them KV memory; ",
             mebibytes_text(plan.missing_bytes).c_str(),
             mebibytes_text(plan.limit.limit_bytes).c_str(), limit_name(plan.limit.scope),
             others.c_str(), mebibytes_text(plan.reserve_bytes).c_str(),
             mebibytes_text(plan.peak_bytes).c_str(), mebibytes_text(kv).c_str()) +
         remedies + mebibytes_text((plan.enough_bytes + (1 << 20) - 1) >> 20 << 20);
}

std::string plan_table(const MemoryPlan& plan) {
  std::string out;
  const auto line = [&out](const std::string& component, const std::string& what,
                           std::uint64_t bytes, const std::string& why) {
    const std::string name = component + (what.empty() ? "" : "  ") + what;
    out += sentence("  %-38.60s %10.1f  %s\n", name.c_str(), static_cast<double>(bytes) / (1 << 20),
                    why.c_str());
  };
  out += sentence("  %-38s %10s\n", "PLAN", "MiB");
  for (const auto& row : plan.rows) line(row.component, row.what, row.bytes, row.why);
  for (const auto& kv : plan.kv) line("kv", kv.model, kv.bytes, kv.why);
  line("= peak", "", plan.peak_bytes, "of anonymous memory");
  line("reserve", "", plan.reserve_bytes, "so that a full pool sheds nothing");
  if (plan.limit.others_bytes > 0) {
    line("others", "", plan.limit.others_bytes, "use it now, under the same limit");
  }
  const auto taken = plan.peak_bytes + plan.reserve_bytes + plan.limit.others_bytes;
  line("free", "", less(plan.limit.limit_bytes, taken), "");
  line("limit", "", plan.limit.limit_bytes, limit_name(plan.limit.scope));
  if (plan.mapped_bytes == 0) return out;
  line("mapped", "", plan.mapped_bytes,
       "weights, in the page cache: reclaimable, read again when needed");
  // A limit of the process's own does not count the page cache.
  const auto left = less(plan.limit.limit_bytes, plan.peak_bytes + plan.limit.others_bytes);
  if (plan.limit.scope != Scope::process && left < plan.mapped_bytes) {
    out += "  warning: at its peak " + mebibytes_text(left) + " of the limit are left for " +
           mebibytes_text(plan.mapped_bytes) +
           " of weights: they are read from disk again and again; raise the limit, or lower "
           "engine.kv_memory by " +
           mebibytes_text(plan.mapped_bytes - left) + "\n";
  }
  return out;
}

}  // namespace plimsoll::cluster
