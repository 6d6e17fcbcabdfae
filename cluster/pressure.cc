#include "cluster/pressure.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace plimsoll::cluster {
namespace {

// The highest rung whose threshold `value` reaches; `current` and the rungs below it are held down
// to `keep` below (or at a share of) where they begin.
template <class Threshold, class Keep>
int rung(double value, Threshold begins, int current, Keep keep) {
  for (int level = 3; level > 0; --level) {
    const double threshold = begins(level);
    if (value >= (level <= current ? keep(threshold) : threshold)) return level;
  }
  return 0;
}

// How a scope's use goes on.
struct Growth {
  double others = 0, own = 0;  // bytes a second
  double own_most = 0;         // bytes: own growth goes no further

  double bytes_in(double seconds) const {
    return others * seconds + std::min(own * seconds, own_most);
  }
  // Until it comes to so many bytes.
  std::optional<double> seconds_to(double bytes) const {
    const double at_once = bytes / (others + own);
    if (others + own > 0 && own * at_once <= own_most) return at_once;
    if (others > 0) return (bytes - own_most) / others;
    return std::nullopt;
  }
};

Growth growth_of(const PressureConfig& config, const PressureState& state,
                 const PressureSample& sample, std::size_t scope) {
  Growth growth;
  const double all = std::max(0.0, state.growth[scope]);
  growth.own = std::clamp(state.own_growth, 0.0, all);
  growth.others = all - growth.own;
  const auto planned = static_cast<double>(sample.planned_bytes);
  const auto own = static_cast<double>(sample.own_bytes);
  growth.own_most = own > planned * (1 + config.plan_slack)
                        ? std::numeric_limits<double>::infinity()
                        : std::max(0.0, planned - own);
  return growth;
}

double mebibytes(double bytes) { return bytes / (1 << 20); }

template <class... Values>
std::string sentence(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

}  // namespace

std::string_view to_string(Level level) {
  constexpr std::string_view names[] = {"green", "yellow", "orange", "red"};
  return names[static_cast<int>(level)];
}

std::string_view to_string(Scope scope) {
  constexpr std::string_view names[] = {"process", "cgroup", "machine"};
  return names[static_cast<int>(scope)];
}

std::uint64_t begins_at(const PressureConfig& config, Level level, std::uint64_t limit_bytes) {
  if (level == Level::green) return 0;
  const auto i = static_cast<int>(level) - 1;
  const auto limit = static_cast<double>(limit_bytes);
  const double most =
      std::min(static_cast<double>(config.free_bytes[i]), config.free_share_most[i] * limit);
  return limit_bytes - static_cast<std::uint64_t>(std::max(config.free_share[i] * limit, most));
}

PressureStep fold(const PressureConfig& config, const PressureState& state,
                  const PressureSample& sample) {
  PressureStep step;
  step.state = state;
  PressureState& next = step.state;
  const int current = static_cast<int>(state.level);
  int used = 0, growth = 0, stalls = 0;
  int used_scope = 0, growth_scope = 0;
  double fullest = -1;
  const double elapsed = state.last ? sample.seconds - state.last->seconds : 0;
  const auto follow = [&](double& growth, std::uint64_t before, std::uint64_t now) {
    const double rate = (static_cast<double>(now) - static_cast<double>(before)) / elapsed;
    growth += (1 - std::exp(-elapsed / config.growth_seconds)) * (rate - growth);
  };
  if (elapsed > 0) follow(next.own_growth, state.last->own_bytes, sample.own_bytes);
  for (int i = 0; i < static_cast<int>(scope_count); ++i) {
    const ScopeUsage& scope = sample.scopes[i];
    if (scope.limit_bytes == 0) continue;
    const double bytes = static_cast<double>(scope.used_bytes);
    const double limit = static_cast<double>(scope.limit_bytes);
    if (elapsed > 0 && state.last->scopes[i].limit_bytes > 0) {
      follow(next.growth[i], state.last->scopes[i].used_bytes, scope.used_bytes);
    }
    const Growth growing = growth_of(config, next, sample, i);
    const auto begins = [&](int level) {
      return static_cast<double>(begins_at(config, static_cast<Level>(level), scope.limit_bytes));
    };
    const auto keep = [&](double threshold) { return threshold - config.used_slack * limit; };
    const int of_used = rung(bytes, begins, current, keep);
    const double projected =
        bytes + growing.bytes_in(config.horizon_seconds) - config.growth_slack * limit;
    const int of_growth = std::min(2, rung(projected, begins, current, keep));
    if (of_used > used) used_scope = i;
    if (of_growth > growth) growth_scope = i;
    used = std::max(used, of_used);
    growth = std::max(growth, of_growth);
    if (of_used >= 2) {
      const double wanted = keep(begins(2));
      step.excess_bytes =
          std::max(step.excess_bytes, static_cast<std::uint64_t>(std::max(0.0, bytes - wanted)));
    }
    if (const auto left = growing.seconds_to(limit - bytes); left && bytes < limit) {
      step.seconds_left = std::min(step.seconds_left.value_or(*left), *left);
    }
    if (bytes / limit > fullest) {
      fullest = bytes / limit;
      step.scope = static_cast<Scope>(i);
    }
  }
  next.last = sample;

  const auto half = [](double threshold) { return threshold / 2; };
  const auto of = [](const double(&percent)[3]) {
    return [&percent](int level) { return percent[level - 1]; };
  };
  if (sample.some_avg10) stalls = rung(*sample.some_avg10, of(config.some_percent), current, half);
  if (sample.full_avg10) {
    stalls = std::max(stalls, rung(*sample.full_avg10, of(config.full_percent), current, half));
  }
  if (stalls >= 2 && stalls > used) {
    const auto limit = static_cast<double>(sample[step.scope].limit_bytes);
    step.excess_bytes =
        std::max(step.excess_bytes, static_cast<std::uint64_t>(config.stall_relief * limit));
  }

  const int wanted = std::max({used, growth, stalls});
  if (wanted > 0 && wanted != used && wanted == stalls) {
    step.cause = sentence("tasks stalled for memory %.1f%% of the last 10 s (all of them %.1f%%)",
                          sample.some_avg10.value_or(0), sample.full_avg10.value_or(0));
  } else if (wanted > 0) {
    const int i = wanted == used ? used_scope : growth_scope;
    step.scope = static_cast<Scope>(i);
    const ScopeUsage& scope = sample.scopes[i];
    const double bytes = static_cast<double>(scope.used_bytes);
    const double limit = static_cast<double>(scope.limit_bytes);
    step.cause = sentence("%s uses %.1f MiB of %.1f MiB (%.1f%%)", to_string(step.scope).data(),
                          mebibytes(bytes), mebibytes(limit), 100 * bytes / limit);
    if (wanted != used) {
      step.cause += sentence(" and grows by %.1f MiB/s", mebibytes(next.growth[i]));
      const auto left = growth_of(config, next, sample, i).seconds_to(limit - bytes);
      if (left) step.cause += sentence(": %.0f s to the limit", *left);
    }
  }
  if (wanted >= current) {
    next.level = static_cast<Level>(wanted);
    next.calm_since.reset();
  } else if (!next.calm_since) {
    next.calm_since = sample.seconds;
  } else if (sample.seconds - *next.calm_since >= config.calm_seconds) {
    next.level = static_cast<Level>(current - 1);
    next.calm_since = sample.seconds;
  }
  return step;
}

}  // namespace plimsoll::cluster
