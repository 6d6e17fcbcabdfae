// The pressure ladder: one level out of headroom, growth and stalls, with hysteresis.
//
// Growth counts before it arrives, except where it is planned: a pool that fills fast, as it was
// sized to, is no reason to shed.
//
// It climbs at once and comes down a rung at a time, once the figures have been clearly below the
// rung for a few samples: seconds, not minutes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace plimsoll::cluster {

enum class Level : std::uint8_t { green, yellow, orange, red };
std::string_view to_string(Level level);

// The limits that may be hit: what an operator gave this process, its cgroup's, the machine's.
enum class Scope : std::uint8_t { process, cgroup, machine };
inline constexpr std::size_t scope_count = 3;
std::string_view to_string(Scope scope);

struct ScopeUsage {
  std::uint64_t used_bytes = 0;   // what the kernel cannot take back: no clean file cache
  std::uint64_t limit_bytes = 0;  // 0: there is none
};

struct PressureSample {
  double seconds = 0;  // since any fixed moment; grows from sample to sample
  std::array<ScopeUsage, scope_count> scopes{};
  std::uint64_t own_bytes = 0;      // of these, this process's: it is in every scope
  std::uint64_t planned_bytes = 0;  // what its own may come to by its plan; 0: it has none
  // PSI of this process's own group, in percent. Absent where only the host's is known, which must
  // not shed for a neighbour's sins.
  std::optional<double> some_avg10;
  std::optional<double> full_avg10;

  ScopeUsage& operator[](Scope scope) { return scopes[static_cast<std::size_t>(scope)]; }
  const ScopeUsage& operator[](Scope scope) const {
    return scopes[static_cast<std::size_t>(scope)];
  }
};

struct PressureConfig {
  // What must be left free for yellow, orange and red not to begin: a share of the limit, and where
  // that is little, so many bytes, but no more than another share.
  double free_share[3] = {0.08, 0.05, 0.02};
  std::uint64_t free_bytes[3] = {48 << 20, 32 << 20, 16 << 20};
  double free_share_most[3] = {0.20, 0.14, 0.08};
  double used_slack = 0.03;               // of the limit: a rung is left that far below its begin
  double some_percent[3] = {10, 30, 60};  // PSI some avg10; left at half of it
  double full_percent[3] = {2, 8, 20};    // PSI full avg10; left at half of it
  double horizon_seconds = 5;      // growth counts as if it went on that long; never beyond orange
  double growth_seconds = 3;       // over which growth is averaged
  double growth_slack = 0.03;      // of the limit: it has to come to that much more than is used
  double plan_slack = 0.05;        // this far over the plan, growth is no longer of the plan
  double calm_seconds = 3;         // below the level, before it comes down a rung
  double stall_relief = 1.0 / 16;  // of the limit is to be freed where stalls say so
};

struct PressureState {
  Level level = Level::green;
  std::optional<double> calm_since;          // below the level, in seconds of the samples
  std::array<double, scope_count> growth{};  // bytes a second
  double own_growth = 0;
  std::optional<PressureSample> last;
};

// What the last sample came to, for the events.
struct PressureStep {
  PressureState state;
  Scope scope = Scope::process;  // the one that decided, or that is fullest
  std::string cause;             // a sentence with its figures; empty if green
  // To be freed now, for the level to come down; 0 below orange.
  std::uint64_t excess_bytes = 0;
  // Until the limit is reached, if growth goes on as it does, but the process's own no further than
  // its plan; absent if it is never reached.
  std::optional<double> seconds_left;
};

// Bytes used of a scope at which a level begins.
std::uint64_t begins_at(const PressureConfig& config, Level level, std::uint64_t limit_bytes);

PressureStep fold(const PressureConfig& config, const PressureState& state,
                  const PressureSample& sample);

}  // namespace plimsoll::cluster
