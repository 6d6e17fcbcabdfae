#include "bench/router/run.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "actors/frontend_impl.h"
#include "actors/network.h"
#include "actors/router.h"
#include "bench/pretend/byte_tokenizer.h"
#include "bench/router/nodes.h"
#include "bench/router/readers.h"

namespace plimsoll::router_bench {
namespace {

using Clock = std::chrono::steady_clock;

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double resident_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

class Run {
 public:
  explicit Run(const Options& options)
      : options_(options),
        streams_(static_cast<std::uint64_t>(options.nodes) * options.streams),
        tally_(streams_ * 2, options.length),
        processes_(options, tally_.emissions),
        listeners_(streams_ * 2) {
    if (options.processes > 0) {
      const auto enabled =
          enable_network(system_config_, processes_.router_files(), std::chrono::seconds(20));
      if (!enabled) throw std::runtime_error(to_string(enabled.error()));
    } else {
      clock_ = std::make_shared<pretend::Clock>();
    }
    system_.emplace(system_config_);
    cluster::Tenant tenant;
    tenant.name = "local";
    tenant.quota.sequences = 1'000'000;
    RouterConfig config;
    config.tenants = {tenant};
    config.board = board_;
    config.ledger = &ledger_;
    config.settings.most_streams = 1'000'000;
    router_ = spawn_router(*system_, std::move(config));
    if (options.processes > 0) open_door();
    for (int i = 0; i < options.nodes && clock_; ++i) {
      nodes_.push_back(start_node(*system_, i, options, tally_.emissions, ledger_, clock_));
      introduce(router_, nodes_.back(), {node_name(i), 1, 1.0, {"m"}, "local", ""});
    }
    services_.emplace(RequestServices{ledger_, *board_, metrics_, history_, open_, memory_, nullptr,
                                      nullptr, router_, options.window, std::chrono::seconds(600)});
    std::map<std::string, ClusterFrontend::Served> models;
    models["m"] = {std::make_shared<TextModel>("m", pretend::byte_model_text(), 8192),
                   ModelKind::causal,
                   "m@0",
                   {}};
    frontend_.emplace(*system_, *services_, std::move(models));
    wait_for_nodes();
  }

  ~Run() {
    for (auto& node : nodes_) caf::anon_send_exit(node, caf::exit_reason::user_shutdown);
    nodes_.clear();
    if (door_) close_door(*system_, *std::exchange(door_, std::nullopt));
    caf::anon_send_exit(router_, caf::exit_reason::user_shutdown);
    services_->router = nullptr;
    router_ = nullptr;
    system_->await_all_actors_done();
  }

  Report measure() {
    // The first streams are as far as if they had come one after the other; then as many come as
    // end, at a fixed rate.
    std::uint64_t next = 0;
    const auto fill = options_.total > 0 ? std::min(options_.total, streams_) : streams_;
    for (; next < fill; ++next) {
      submit(next, std::max<std::uint32_t>(
                       1, static_cast<std::uint32_t>((next + 1) * options_.length / streams_)));
    }
    const double rate = static_cast<double>(streams_) * options_.step_tokens /
                        (options_.length * options_.step_us / 1e6);
    const auto begin = Clock::now();
    const auto at = [&](double seconds) {
      return begin +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    };
    Report report;
    report.offered = rate * options_.length;
    std::uint64_t arrivals = 0;
    const auto arrive_until = [&](Clock::time_point end) {
      for (;;) {
        if (options_.total > 0 && next >= options_.total) return;
        const auto time = at(static_cast<double>(arrivals + 1) / rate);
        if (time > end) return std::this_thread::sleep_until(end);
        std::this_thread::sleep_until(time);
        ++arrivals;
        // Beyond this the engines could not follow: more load would only wait.
        if (next - tally_.ended >= streams_ * 3 / 2) {
          ++report.skipped;
        } else {
          submit(next++, options_.length);
        }
      }
    };
    arrive_until(at(options_.warmup));
    tally_.latency.clear();
    tally_.measuring = true;
    const auto from = Clock::now();
    const double process = process_cpu_seconds(), pretended = engines_cpu_seconds();
    const std::uint64_t tokens = tally_.tokens;
    arrive_until(at(options_.warmup + (options_.total > 0 ? 1e6 : options_.seconds)));
    if (options_.total > 0) wait_for(next);
    const auto took = static_cast<double>(tally_.tokens - tokens);
    report.cpu_us = (process_cpu_seconds() - process - engines_cpu_seconds() + pretended) * 1e6 /
                    std::max(1.0, took);
    report.tokens_per_second = took / std::chrono::duration<double>(Clock::now() - from).count();
    tally_.measuring = false;
    report.rss_mib = resident_mib() - static_cast<double>(tally_.emissions.bytes()) / (1 << 20);
    report.p50_ms = tally_.latency.quantile_ms(0.5);
    report.p99_ms = tally_.latency.quantile_ms(0.99);
    cancel_all(next);
    report.all_ended = wait_for(next);
    report.node_cpu_us =
        processes_.stop() * 1e6 / std::max(1.0, static_cast<double>(tally_.tokens));
    report.streams = next;
    report.wrong = tally_.wrong;
    report.failed = options_.total > 0 ? tally_.failed.load() : 0;
    report.short_of = tally_.short_of;
    return report;
  }

 private:
  void open_door() {
    DoorConfig config;
    config.tls = options_.tls;
    config.router = "bench";
    config.router_actor = router_;
    config.ledger = &ledger_;
    config.admit = [](const wire::Hello&) -> Result<DoorConfig::Admission> {
      return DoorConfig::Admission{};
    };
    auto door = plimsoll::open_door(*system_, std::move(config));
    if (!door) throw std::runtime_error(to_string(door.error()));
    door_ = *door;
    processes_.join(door->port);
  }

  // Until each has told what it serves.
  void wait_for_nodes() const {
    const auto until = Clock::now() + std::chrono::seconds(60);
    const auto serves = [](const NodeStatus& node) { return !node.models.empty(); };
    while (std::ranges::count_if(board_->nodes(), serves) < options_.nodes) {
      if (Clock::now() > until) throw std::runtime_error("not every node has come");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  double engines_cpu_seconds() const { return clock_ ? clock_->cpu_seconds() : 0; }

  void submit(std::uint64_t stream, std::uint32_t length) {
    const Reading reading{&tally_, stream, length};
    if (options_.frontend) {
      GenerateRequest request;
      request.model = "m";
      request.input = prompt;
      request.max_tokens = length;
      request.seed = stream;
      request.ignore_eos = true;
      auto listener = std::make_shared<CountingListener>(reading);
      listener->hold(frontend_->generate({TenantId("local"), true}, std::move(request), listener));
      listeners_[stream % listeners_.size()] = listener;
      return;
    }
    SubmitStream request;
    request.tenant = TenantId("local");
    request.model = "m";
    request.prompt = prompt;
    request.max_new_tokens = length;
    request.deadline_ms = 600'000;
    SequenceSpec spec;
    spec.id = RequestId(first_id + stream);
    spec.seed = stream;
    spec.credit = options_.window;
    request.sequences.push_back(std::move(spec));
    caf::anon_send(router_, std::move(request),
                   system_->spawn(counting_sink, reading, router_, options_.window));
  }

  void cancel_all(std::uint64_t next) {
    for (auto& weak : listeners_) {
      if (const auto listener = weak.lock()) listener->cancel();
    }
    CancelSequences all;
    for (std::uint64_t i = next - std::min(next, streams_ * 4); i < next; ++i) {
      all.ids.push_back(RequestId(first_id + i));
    }
    if (!options_.frontend) caf::anon_send(router_, std::move(all));
  }

  bool wait_for(std::uint64_t streams) const {
    const auto until = Clock::now() + std::chrono::seconds(60);
    while (tally_.ended < streams && Clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return tally_.ended == streams;
  }

  static constexpr std::uint64_t first_id = 1'000'000;

  const Options options_;
  const std::uint64_t streams_;
  Tally tally_;
  NodeProcesses processes_;  // before any thread
  Ledger ledger_;
  std::shared_ptr<Board> board_ = std::make_shared<Board>();
  Metrics metrics_;
  History history_{ledger_};
  OpenRequests open_{1'000'000};
  RequestMemory memory_{128_GiB};
  std::shared_ptr<pretend::Clock> clock_;
  ActorSystemConfig system_config_{options_.threads};
  std::optional<caf::actor_system> system_;
  RouterActor router_;
  std::optional<Door> door_;
  std::vector<NodeActor> nodes_;
  std::optional<RequestServices> services_;
  std::optional<ClusterFrontend> frontend_;
  std::vector<std::weak_ptr<CountingListener>> listeners_;
};

}  // namespace

Report run(const Options& options) { return Run(options).measure(); }

}  // namespace plimsoll::router_bench
