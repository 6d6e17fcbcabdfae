#include "actors/governor.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/memory/process_memory.h"

namespace plimsoll {
namespace {

static_assert(static_cast<int>(cluster::Level::green) == static_cast<int>(PressureLevel::green));
static_assert(static_cast<int>(cluster::Level::red) == static_cast<int>(PressureLevel::red));

const char* name(cluster::Level level) {
  constexpr const char* names[] = {"green", "yellow", "orange", "red"};
  return names[static_cast<int>(level)];
}

struct GovernorState {
  GovernorConfig config;
  cluster::PressureState pressure;
  bool failing = false;

  // What to tell the node, if the memory could be read.
  std::optional<SetPressure> step() {
    const auto sample = config.sample();
    if (!sample) {
      if (!std::exchange(failing, true)) {
        spdlog::error("event=memory_unreadable error=\"{}\"", to_string(sample.error()));
      }
      return std::nullopt;
    }
    failing = false;
    config.board->sample_memory(sample->seconds, sample->used_bytes);
    const auto step = cluster::fold(config.pressure, pressure, *sample);
    const auto before = std::exchange(pressure, step.state).level;
    const auto level = pressure.level;
    if (level >= cluster::Level::orange) purge_allocator();
    const SetPressure out{static_cast<PressureLevel>(level), sample->used_bytes,
                          sample->limit_bytes};
    if (level == before) return out;
    spdlog::log(level > before ? spdlog::level::warn : spdlog::level::info,
                "event=pressure level={} before={} cause={} used_bytes={} limit_bytes={} "
                "used_share={:.3f} projected_share={:.3f} growth_bytes_per_second={:.0f} "
                "psi_some_avg10={:.2f} psi_full_avg10={:.2f}",
                name(level), name(before), *step.cause != '\0' ? step.cause : "none",
                sample->used_bytes, sample->limit_bytes, step.used_share, step.projected_share,
                pressure.growth_bytes_per_second, sample->some_avg10.value_or(0),
                sample->full_avg10.value_or(0));
    return out;
  }
};

GovernorActor::behavior_type governor(GovernorActor::stateful_pointer<GovernorState> self,
                                      const std::shared_ptr<GovernorConfig>& config) {
  self->state.config = std::move(*config);
  self->send(self, TickAtom::value);
  return {
      [=](TickAtom) {
        auto& state = self->state;
        if (const auto pressure = state.step()) {
          state.config.board->set_pressure(pressure->level);
          self->send(state.config.node, *pressure);
        }
        self->delayed_send(self, state.config.interval, TickAtom::value);
      },
  };
}

}  // namespace

GovernorActor spawn_governor(caf::actor_system& system, GovernorConfig config) {
  return system.spawn<caf::detached>(governor, std::make_shared<GovernorConfig>(std::move(config)));
}

std::function<Result<cluster::PressureSample>()> process_sampler(std::uint64_t limit_bytes) {
  return [limit_bytes]() -> Result<cluster::PressureSample> {
    const auto process = read_process_memory();
    if (!process) return fail(process.error());
    cluster::PressureSample sample;
    sample.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    // Clean file pages (weights above all) are the kernel's to take back: they are no pressure.
    sample.used_bytes = process->anonymous_bytes + process->swap_bytes;
    sample.limit_bytes = limit_bytes;
    if (limit_bytes == 0) {
      sample.limit_bytes = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                           static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
      const auto cgroup = read_cgroup_memory();
      if (cgroup && cgroup->limit_bytes) {
        sample.limit_bytes = std::min(sample.limit_bytes, *cgroup->limit_bytes);
      }
    }
    const auto pressure = read_memory_pressure();
    if (pressure && pressure->cgroup_scoped) {
      sample.some_avg10 = pressure->some_avg10;
      sample.full_avg10 = pressure->full_avg10;
    }
    return sample;
  };
}

}  // namespace plimsoll
