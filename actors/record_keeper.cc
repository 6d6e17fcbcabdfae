#include "actors/record_keeper.h"

#include <spdlog/spdlog.h>

#include <set>
#include <utility>

#include "actors/router_call.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

// Often enough for quota leases.
constexpr std::chrono::milliseconds look_interval{800};
// Of memory: whoever looks after a longer while does not know what was held in it.
constexpr double longest_billed_s = 30;
// A third of the time for which the others hold a router's name.
constexpr std::chrono::seconds announce_interval = Directory::router_ttl / 3;

std::uint64_t unix_ms() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace

RecordKeeper::RecordKeeper(Directory& directory, RecordKeeperConfig config)
    : directory_(directory),
      config_(std::move(config)),
      own_usage_(directory.own_usage()),
      rates_since_(Clock::now()),
      held_until_(Clock::now()) {
  directory_.on_change([this] { wake(); });
  wake();
  thread_ = std::thread([this] { run(); });
}

RecordKeeper::~RecordKeeper() { stop(); }

void RecordKeeper::stop() {
  if (!thread_.joinable()) return;
  directory_.on_change({});
  {
    const std::lock_guard lock(wake_mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  if (auto saved = save_usage(); !saved) {
    spdlog::error("event=usage_not_saved error=\"{}\"", to_string(saved.error()));
  }
  if (config_.shared) directory_.retire_router();
}

void RecordKeeper::wake() {
  {
    const std::lock_guard lock(wake_mutex_);
    woken_ = true;
  }
  wake_.notify_all();
}

void RecordKeeper::run() {
  auto next_usage = Clock::now() + config_.usage_interval;
  auto next_announcement = Clock::now() + announce_interval;
  for (;;) {
    {
      std::unique_lock lock(wake_mutex_);
      wake_.wait_for(lock, look_interval, [this] { return woken_ || stopping_; });
      if (stopping_) return;
      woken_ = false;
    }
    apply();
    // Before what may wait for the store: requests wait for it.
    if (config_.renew_leases) config_.renew_leases();
    if (Clock::now() >= next_usage) {
      const auto saved = save_usage();
      if (!saved && !usage_failed_) {
        spdlog::warn("event=usage_not_saved error=\"{}\"", to_string(saved.error()));
      }
      usage_failed_ = !saved;
      next_usage = Clock::now() + config_.usage_interval;
    }
    if (config_.shared && Clock::now() >= next_announcement) {
      announce();
      next_announcement = Clock::now() + announce_interval;
    }
  }
}

void RecordKeeper::apply() {
  const std::lock_guard lock(apply_mutex_);
  apply_tenants();
  apply_cache_policies();
  apply_nodes();
  auto placements = directory_.placements();
  if (placements != placements_) {
    placements_ = std::move(placements);
    if (config_.on_placements) config_.on_placements(placements_);
  }
}

void RecordKeeper::apply_tenants() {
  std::map<std::string, cluster::Tenant> wanted;
  std::vector<cluster::Tenant> changed;
  for (auto& tenant : directory_.tenants()) {
    const auto known = tenants_.find(tenant.name);
    if (known == tenants_.end() || known->second != tenant) changed.push_back(tenant);
    wanted.emplace(tenant.name, std::move(tenant));
  }
  std::vector<std::string> gone;
  for (const auto& [name, tenant] : tenants_) {
    if (!wanted.contains(name)) gone.push_back(name);
  }
  if (changed.empty() && gone.empty()) return;
  const auto applied = call_router(config_.router, [&](auto& router, auto now, auto&) {
    for (const auto& tenant : changed) router.set_tenant(tenant, now);
    for (const auto& name : gone) router.remove_tenant(name);
  });
  if (applied) tenants_ = std::move(wanted);  // else the next round tries again
}

// What the router puts into requests, no node needs to know before.
void RecordKeeper::apply_cache_policies() {
  CachePolicies wanted;
  for (const auto& [name, tenant] : tenants_) {
    auto policy = tenant.cache;
    policy.no_store = false;
    if (policy != cluster::CachePolicy{}) wanted.emplace(name, std::move(policy));
  }
  if (wanted == cache_policies_) return;
  cache_policies_ = std::move(wanted);
  caf::anon_send(config_.router, SetCachePolicies{cache_policies_});
}

void RecordKeeper::apply_nodes() {
  std::map<std::string, NodeRecord> wanted;
  for (auto& node : directory_.nodes()) wanted.emplace(node.name, std::move(node));
  if (wanted == nodes_) return;
  const auto applied =
      call_router(config_.router, [&, now_ms = unix_ms()](auto& router, auto now, auto& actions) {
        for (const auto& [name, record] : nodes_) {
          if (!wanted.contains(name)) router.forget(name, now, actions);
        }
        for (const auto& [name, record] : wanted) {
          const auto known = nodes_.find(name);
          const NodeRecord before = known == nodes_.end() ? NodeRecord{} : known->second;
          if (record.cordoned != before.cordoned) router.cordon(name, record.cordoned);
          if (record.drain_until_ms != before.drain_until_ms && record.drain_until_ms > now_ms) {
            const std::chrono::milliseconds left(record.drain_until_ms - now_ms);
            router.drain(name, now + left, now, actions);
          }
        }
      });
  if (applied) nodes_ = std::move(wanted);
}

void RecordKeeper::announce() {
  RouterRecord own;
  own.name = config_.name;
  own.address = config_.address;
  own.software = PLIMSOLL_VERSION;
  const auto asked = call_router(config_.router, [&own](auto& router, auto, auto&) {
    own.streams = static_cast<std::uint32_t>(router.streams());
  });
  for (const auto& [tenant, rate] : token_rates()) own.tokens_per_second += rate;
  const auto announced = asked ? directory_.announce_router(own) : asked;
  if (!announced) {
    spdlog::warn("event=router_not_announced error=\"{}\"", to_string(announced.error()));
  }
}

Result<void> RecordKeeper::save_usage() {
  std::map<std::string, cluster::Usage> taken;
  std::map<std::string, double> kv_bytes;
  cluster::ServedTokens served;
  cluster::HeldMemory held;
  if (config_.held_memory) held = config_.held_memory();
  const std::lock_guard lock(usage_mutex_);
  auto asked = call_router(config_.router, [&](auto& router, auto, auto&) {
    taken = router.take_usage();
    served = router.take_served();
    kv_bytes = router.kv_bytes();
  });
  if (!asked) return asked;
  // What is held now is taken for what was held since, unless nobody looked for too long.
  const std::chrono::duration<double> since =
      Clock::now() - std::exchange(held_until_, Clock::now());
  const double billed_s = std::min(since.count(), longest_billed_s);
  for (const auto& [tenant, usage] : cluster::accrue(held, kv_bytes, served, billed_s)) {
    taken[tenant] += usage;
  }
  for (const auto& [tenant, usage] : taken) {
    own_usage_[tenant] += usage;
    generated_[tenant] += usage.generated_tokens;
  }
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - rates_since_).count();
  if (seconds >= 1) {
    token_rates_.clear();
    for (const auto& [tenant, tokens] : std::exchange(generated_, {})) {
      token_rates_[tenant] = static_cast<double>(tokens) / seconds;
    }
    rates_since_ = now;
  }
  return directory_.save_usage(own_usage_);
}

Result<std::map<std::string, cluster::Usage>> RecordKeeper::usage() {
  if (auto saved = save_usage(); !saved) return fail(std::move(saved.error()));
  return directory_.usage();
}

std::map<std::string, double> RecordKeeper::token_rates() const {
  const std::lock_guard lock(usage_mutex_);
  return token_rates_;
}

}  // namespace plimsoll
