#include "actors/governor.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/memory/headroom.h"
#include "engine/memory/pressure_trigger.h"
#include "engine/memory/process_memory.h"

namespace plimsoll {
namespace {

static_assert(static_cast<int>(cluster::Level::green) == static_cast<int>(PressureLevel::green));
static_assert(static_cast<int>(cluster::Level::red) == static_cast<int>(PressureLevel::red));
static_assert(static_cast<int>(cluster::Scope::process) ==
              static_cast<int>(MemoryScope::Kind::process));
static_assert(static_cast<int>(cluster::Scope::machine) ==
              static_cast<int>(MemoryScope::Kind::machine));

// Freed memory that is worth an event.
constexpr std::uint64_t notable_bytes = 1_MiB;
constexpr auto stall = std::chrono::milliseconds(100);
constexpr auto stall_window = std::chrono::seconds(2);  // what a process without privilege may ask

double mebibytes(std::uint64_t bytes) { return static_cast<double>(bytes) / 1_MiB; }

std::uint64_t headroom_bytes(const cluster::PressureSample& sample) {
  auto least = ~std::uint64_t{0};
  for (const auto& scope : sample.scopes) {
    if (scope.limit_bytes == 0) continue;
    least = std::min(least, scope.limit_bytes - std::min(scope.limit_bytes, scope.used_bytes));
  }
  return least;
}

}  // namespace

Governor::Governor(GovernorConfig config)
    : config_(std::move(config)), stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "governor");
}

Governor::~Governor() {
  eventfd_write(stop_, 1);
  thread_.join();
  close(stop_);
}

void Governor::run() {
  auto trigger = PressureTrigger::open(stall, stall_window);
  pollfd waits[2] = {{stop_, POLLIN, 0}, {trigger ? trigger->descriptor() : -1, POLLPRI, 0}};
  while ((waits[0].revents & POLLIN) == 0) {
    if (const auto pressure = step()) {
      caf::anon_send(config_.node, *pressure);
    }
    const auto interval =
        pressure_.level == cluster::Level::green ? config_.interval : config_.interval / 4;
    const auto until = std::chrono::steady_clock::now() + interval;
    // One firing is enough to look again; more of them within the window are no news.
    if (poll(waits, 2, static_cast<int>(interval.count())) > 0 && waits[0].revents == 0) {
      if ((waits[1].revents & POLLERR) != 0) waits[1].fd = -1;  // the group is gone
      const auto rest = std::min(until - std::chrono::steady_clock::now(),
                                 std::chrono::steady_clock::duration(config_.interval / 8));
      const auto ms = std::chrono::ceil<std::chrono::milliseconds>(rest).count();
      poll(waits, 1, static_cast<int>(std::max<std::int64_t>(ms, 0)));
    }
  }
}

std::optional<SetPressure> Governor::step() {
  const auto sample = config_.sample();
  if (!sample) {
    if (!std::exchange(failing_, true)) {
      spdlog::error("event=memory_unreadable error=\"{}\"", to_string(sample.error()));
    }
    return std::nullopt;
  }
  failing_ = false;
  const auto step = cluster::fold(config_.pressure, pressure_, *sample);
  const auto before = std::exchange(pressure_, step.state).level;
  const auto& scope = (*sample)[step.scope];
  told_ = {static_cast<PressureLevel>(step.state.level), scope.used_bytes, scope.limit_bytes,
           step.excess_bytes, step.cause};
  config_.board->set_pressure(told_.level, told_.used_bytes, told_.limit_bytes);
  if (step.state.level != before) {
    const bool rises = step.state.level > before;
    auto cause = step.cause;
    if (cause.empty()) {
      cause = fmt::format("{} uses {:.1f} MiB of {:.1f} MiB", to_string(step.scope),
                          mebibytes(scope.used_bytes), mebibytes(scope.limit_bytes));
    }
    if (rises && step.seconds_left && *step.seconds_left < 3600) {
      cause += fmt::format("; {:.0f} s before the limit", *step.seconds_left);
    }
    spdlog::log(rises ? spdlog::level::warn : spdlog::level::info,
                "event=pressure level={} before={} scope={} used_bytes={} limit_bytes={} "
                "psi_some_avg10={:.2f} psi_full_avg10={:.2f} cause=\"{}\"",
                to_string(step.state.level), to_string(before), to_string(step.scope),
                scope.used_bytes, scope.limit_bytes, sample->some_avg10.value_or(0),
                sample->full_avg10.value_or(0), cause);
    config_.board->events().add(config_.board->event(cluster::EventKind::level, std::move(cause)));
  }
  if (step.state.level >= cluster::Level::orange) {
    const auto allocator = read_allocator_memory();
    purge_allocator();
    const auto after = read_allocator_memory();
    if (after && allocator->resident_bytes >= after->resident_bytes + notable_bytes) {
      const auto freed = allocator->resident_bytes - after->resident_bytes;
      auto purge =
          config_.board->event(cluster::EventKind::purge,
                               fmt::format("the allocator gave {:.1f} MiB back to the kernel: {}",
                                           mebibytes(freed), step.cause));
      purge.bytes = freed;
      config_.board->events().add(std::move(purge));
    }
  }
  if (sample->seconds >= growth_at_) {
    growth_at_ = sample->seconds + std::chrono::duration<double>(config_.growth_interval).count();
    watch_growth(*sample, step);
    watch_kills();
  }
  return told_;
}

void Governor::watch_growth(const cluster::PressureSample& sample,
                            const cluster::PressureStep& step) {
  const auto anonymous = config_.anonymous ? config_.anonymous() : std::nullopt;
  if (!anonymous) return;
  config_.board->sample_memory(sample.seconds, anonymous->bytes);
  const auto bytes = anonymous->bytes - std::min(anonymous->bytes, anonymous->kv_bytes);
  const auto headroom = headroom_bytes(sample);
  const auto growth = cluster::fold(config_.growth, growth_, {sample.seconds, bytes}, headroom);
  config_.board->set_growth({growth.bytes_per_second, growth.seconds_left, step.seconds_left});
  if (!growth.raised) return;
  auto cause = fmt::format(
      "memory outside KV grows steadily by {:.2f} MiB/s, to {:.1f} MiB now: {:.0f} s before the "
      "limit",
      growth.bytes_per_second / 1_MiB, mebibytes(bytes), *growth.seconds_left);
  spdlog::warn("event=growth_alarm bytes_per_second={:.0f} seconds_left={:.0f} bytes={}",
               growth.bytes_per_second, *growth.seconds_left, bytes);
  config_.board->events().add(config_.board->event(cluster::EventKind::alarm, std::move(cause)));
}

void Governor::watch_kills() {
  const auto cgroup = read_cgroup_memory();
  if (!cgroup || !cgroup->oom_kills) return;
  const auto before = oom_kills_.value_or(*cgroup->oom_kills);
  oom_kills_ = cgroup->oom_kills;
  if (*oom_kills_ <= before) return;
  auto killed = config_.board->event(
      cluster::EventKind::oom_kill,
      fmt::format("the kernel killed in the group {}: {} kills in all", cgroup->path, *oom_kills_));
  killed.count = static_cast<std::uint32_t>(*oom_kills_ - before);
  spdlog::error("event=oom_kill group={} kills={}", cgroup->path, *oom_kills_);
  config_.board->events().add(std::move(killed));
}

std::function<Result<cluster::PressureSample>()> process_sampler(
    std::uint64_t limit_bytes, std::function<std::uint64_t()> planned_bytes) {
  return [limit_bytes, planned_bytes]() -> Result<cluster::PressureSample> {
    const auto scopes = read_memory_scopes(limit_bytes);
    if (!scopes) return fail(scopes.error());
    cluster::PressureSample sample;
    sample.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    for (const auto& scope : *scopes) {
      sample[static_cast<cluster::Scope>(scope.kind)] = {scope.used_bytes, scope.limit_bytes};
    }
    // The same reading where there is one: growth of its own is not to look like that of others.
    sample.own_bytes = sample[cluster::Scope::process].used_bytes;
    if (limit_bytes == 0) {
      const auto own = read_own_bytes();
      if (!own) return fail(own.error());
      sample.own_bytes = *own;
    }
    if (planned_bytes) sample.planned_bytes = planned_bytes();
    const auto pressure = read_memory_pressure();
    if (pressure && pressure->cgroup_scoped) {
      sample.some_avg10 = pressure->some_avg10;
      sample.full_avg10 = pressure->full_avg10;
    }
    return sample;
  };
}

std::function<std::optional<AnonymousMemory>()> anonymous_sampler(const Ledger& ledger) {
  return [&ledger]() -> std::optional<AnonymousMemory> {
    const auto process = read_process_memory();
    if (!process) return std::nullopt;
    AnonymousMemory out{process->anonymous_bytes, 0};
    for (const auto& row : ledger.snapshot()) {
      if (row.component == Component::kv && row.kind == MemoryKind::anonymous) {
        out.kv_bytes += static_cast<std::uint64_t>(std::max<std::int64_t>(0, row.resident_bytes));
      }
    }
    return out;
  };
}

}  // namespace plimsoll
