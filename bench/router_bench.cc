// How far one router goes: nodes with pretended engines, streams through the real router actor to
// real sinks, at an offered rate that does not wait for the answers.
//
// Latency is taken from a table beside the messages: the engine notes when it emits each token,
// the sink looks that up when the token has come.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "actors/frontend_impl.h"
#include "actors/node.h"
#include "actors/router.h"
#include "bench/pretend/byte_tokenizer.h"
#include "bench/pretend/pretend_engine.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

struct Options {
  int nodes = 1;
  std::uint32_t streams = 64;  // that run on one node at a time
  std::uint32_t step_us = 20'000;
  std::uint32_t step_tokens = 1;
  std::uint32_t length = 256;  // tokens of a stream
  std::uint32_t window = 256;  // of credit
  double seconds = 5, warmup = 1;
  int threads = 2;          // of the actor system
  bool frontend = false;    // text to listeners, instead of tokens to bare sinks
  std::uint64_t total = 0;  // streams in all; 0: until the time is over
};

// Counts by powers of two with 32 steps between each: within 3 %.
class Histogram {
 public:
  void add(std::int64_t ns) {
    const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(ns, 32));
    const int shift = std::bit_width(value) - 6;
    counts_[static_cast<std::size_t>(shift) * 32 + (value >> shift)].fetch_add(
        1, std::memory_order_relaxed);
  }
  double quantile_ms(double q) const {
    std::uint64_t all = 0, seen = 0;
    for (const auto& count : counts_) all += count;
    std::size_t i = 32;
    while (i + 1 < counts_.size() &&
           static_cast<double>(seen += counts_[i]) < q * static_cast<double>(all)) {
      ++i;
    }
    const std::size_t shift = i / 32 - 1;
    return static_cast<double>((i - shift * 32) << shift) / 1e6;
  }
  void clear() {
    for (auto& count : counts_) count = 0;
  }

 private:
  std::array<std::atomic<std::uint64_t>, 60 * 32> counts_{};
};

// What every stream of a run tells, and what is known of it beside the messages.
struct Tally {
  explicit Tally(const Options& options, std::size_t places)
      : length(options.length), emitted(places * options.length) {}

  std::int64_t& emitted_at(std::uint64_t stream, std::uint32_t position) {
    const std::size_t places = emitted.size() / length;
    return emitted[stream % places * length + position];
  }
  // Tokens came: the streams' own counts say that each is the next one.
  void took(std::uint64_t stream, std::uint32_t position, std::uint32_t count) {
    const auto now = now_ns();
    if (measuring) {
      for (std::uint32_t i = 0; i < count; ++i) {
        latency.add(now - emitted_at(stream, position + i));
      }
    }
    tokens.fetch_add(count, std::memory_order_relaxed);
  }

  const std::uint32_t length;
  std::vector<std::int64_t> emitted;
  std::atomic<bool> measuring{false};
  Histogram latency;
  std::atomic<std::uint64_t> tokens{0};
  std::atomic<std::uint64_t> wrong{0};  // tokens that were not the next one of their stream
  std::atomic<std::uint64_t> ended{0}, failed{0}, short_of{0};
};

const std::vector<TokenId> prompt(32, 'p');
const std::uint64_t prompt_hash = pretend::prompt_hash(prompt);

// One stream as its reader sees it.
struct Reading {
  Tally* tally;
  std::uint64_t stream;
  std::uint32_t length;
  std::uint32_t position = 0;

  void take(TokenId id) {
    if (id != pretend::token_at(prompt_hash, stream, position)) ++tally->wrong;
    ++position;
  }
  void end(bool whole) {
    if (!whole) ++tally->failed;
    if (whole && position != length) ++tally->short_of;
    ++tally->ended;
  }
};

struct SinkState {
  std::optional<Reading> reading;
  RouterActor router;
  std::uint32_t quarter = 0;  // of the window: when credit goes back
  std::uint32_t owed = 0;
};

StreamSink::behavior_type counting_sink(StreamSink::stateful_pointer<SinkState> self,
                                        const Reading& reading, const RouterActor& router,
                                        std::uint32_t window) {
  self->state.reading = reading;
  self->state.router = router;
  self->state.quarter = std::max(1U, window / 4);
  return {[](const RateLimits&) {},
          [=](StreamEvents& message) {
            auto& state = self->state;
            message.charge.reset();
            for (auto& event : message.events) {
              const auto from = state.reading->position;
              for (const auto& token : event.tokens) state.reading->take(token.id);
              const auto count = state.reading->position - from;
              if (count > 0) state.reading->tally->took(state.reading->stream, from, count);
              if (event.finish) {
                state.reading->end(event.finish == FinishReason::length);
                return self->quit();
              }
              if ((state.owed += count) >= state.quarter) {
                self->send(state.router, AddCredit{event.id, std::exchange(state.owed, 0)});
              }
            }
          }};
}

class CountingListener final : public GenerationListener {
 public:
  explicit CountingListener(const Reading& reading) : reading_(reading) {}
  void hold(std::shared_ptr<GenerationStream> stream) {
    const std::lock_guard lock(mutex_);
    if (!ended_) stream_ = std::move(stream);
  }
  void cancel() {
    const std::lock_guard lock(mutex_);
    if (stream_) stream_->cancel();
  }
  void on_delta(GenerationDelta&& delta) override {
    const auto from = reading_.position;
    for (const char c : delta.text) reading_.take(static_cast<unsigned char>(c));
    reading_.tally->took(reading_.stream, from, reading_.position - from);
    const std::lock_guard lock(mutex_);
    if (stream_) stream_->consumed(delta.token_count);
  }
  void on_choice_end(std::uint32_t, FinishReason) override {}
  void on_end(const GenerationUsage&, std::optional<Error> error) override {
    reading_.end(!error);
    const std::lock_guard lock(mutex_);
    ended_ = true;
    stream_ = nullptr;
  }

 private:
  Reading reading_;
  std::mutex mutex_;
  std::shared_ptr<GenerationStream> stream_;
  bool ended_ = false;
};

// ---- processor time

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

// ---- one run

struct Report {
  std::uint64_t streams = 0, skipped = 0, wrong = 0, failed = 0, short_of = 0;
  double offered = 0, tokens_per_second = 0, p50_ms = 0, p99_ms = 0;
  double cpu_us = 0;   // of processor time for each token, without the engines'
  double rss_mib = 0;  // the most so far, less the bench's own table
  bool all_ended = false;
};

class Run {
 public:
  explicit Run(const Options& options)
      : options_(options),
        streams_(static_cast<std::uint64_t>(options.nodes) * options.streams),
        tally_(options, streams_ * 2),
        listeners_(streams_ * 2) {
    RouterConfig config;
    config.tenants = {{"local", {.sequences = 1'000'000}}};
    config.board = board_;
    config.ledger = &ledger_;
    router_ = spawn_router(system_, std::move(config));
    for (int i = 0; i < options.nodes; ++i) add_node(i);
    services_.emplace(RequestServices{ledger_, *board_, metrics_, open_, router_, options.window,
                                      std::chrono::seconds(600)});
    std::map<std::string, ClusterFrontend::Served> models;
    models["m"] = {std::make_shared<TextModel>("m", pretend::byte_model_text(), 8192),
                   ModelKind::causal,
                   "m@0",
                   {}};
    frontend_.emplace(system_, *services_, std::vector<TenantConfig>{}, std::move(models));
    caf::scoped_actor self(system_);
    self->request(router_, caf::infinite, CancelSequences{}).receive([] {}, [](caf::error&) {});
  }

  ~Run() {
    for (auto& node : nodes_) caf::anon_send_exit(node, caf::exit_reason::user_shutdown);
    nodes_.clear();
    caf::anon_send_exit(router_, caf::exit_reason::user_shutdown);
    services_->router = nullptr;
    router_ = nullptr;
    system_.await_all_actors_done();
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
    const double process = process_cpu_seconds(), pretended = clock_->cpu_seconds();
    const std::uint64_t tokens = tally_.tokens;
    arrive_until(at(options_.warmup + (options_.total > 0 ? 1e6 : options_.seconds)));
    if (options_.total > 0) wait_for(next);
    const auto took = static_cast<double>(tally_.tokens - tokens);
    report.cpu_us = (process_cpu_seconds() - process - clock_->cpu_seconds() + pretended) * 1e6 /
                    std::max(1.0, took);
    report.tokens_per_second = took / std::chrono::duration<double>(Clock::now() - from).count();
    tally_.measuring = false;
    report.rss_mib = resident_mib() - static_cast<double>(tally_.emitted.size() * 8) / (1 << 20);
    report.p50_ms = tally_.latency.quantile_ms(0.5);
    report.p99_ms = tally_.latency.quantile_ms(0.99);
    cancel_all(next);
    report.all_ended = wait_for(next);
    report.streams = next;
    report.wrong = tally_.wrong;
    report.failed = options_.total > 0 ? tally_.failed.load() : 0;
    report.short_of = tally_.short_of;
    return report;
  }

 private:
  void add_node(int index) {
    const auto name = fmt::format("node-{}", index);
    auto inbox = std::make_shared<NodeInbox>();
    pretend::Options pretend;
    pretend.step = std::chrono::microseconds(options_.step_us);
    pretend.phase = pretend.step * index / options_.nodes;
    pretend.step_tokens = options_.step_tokens;
    pretend.batch = options_.streams * 4;
    pretend.queue_length = options_.streams * 4;
    pretend.kv_token_bytes = 16;
    pretend.on_emit = [this](const SequenceRequest& request, std::uint32_t position,
                             std::uint32_t count) {
      const auto now = now_ns();
      for (std::uint32_t i = 0; i < count; ++i) {
        tally_.emitted_at(request.sampling.seed, position + i) = now;
      }
    };
    NodeConfig config{.name = name, .epoch = 1, .engines = {}, .inbox = inbox, .ledger = &ledger_};
    config.engines.push_back({"m", nullptr,
                              pretend::start_engine(std::move(pretend), ledger_,
                                                    make_engine_sink(inbox, ledger_), clock_),
                              nullptr});
    nodes_.push_back(spawn_node(system_, std::move(config)));
    introduce(router_, nodes_.back(), {name, 1, 1.0, {"m"}});
  }

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
                   system_.spawn(counting_sink, reading, router_, options_.window));
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
  Ledger ledger_;
  std::shared_ptr<Board> board_ = std::make_shared<Board>();
  Metrics metrics_;
  OpenRequests open_{1'000'000, 64_GiB};
  std::shared_ptr<pretend::Clock> clock_ = std::make_shared<pretend::Clock>();
  ActorSystemConfig system_config_{options_.threads};
  caf::actor_system system_{system_config_};
  RouterActor router_;
  std::vector<NodeActor> nodes_;
  std::optional<RequestServices> services_;
  std::optional<ClusterFrontend> frontend_;
  std::vector<std::weak_ptr<CountingListener>> listeners_;
};

void print_head() {
  fmt::print("{:>5} {:>7} {:>9} {:>9} {:>6} {:>8} {:>8} {:>8} {:>8} {:>5}\n", "nodes", "streams",
             "offered/s", "tokens/s", "eff.", "p50 ms", "p99 ms", "cpu us", "rss MiB", "shed");
}

void print(const Options& options, const Report& r) {
  fmt::print("{:>5} {:>7} {:>9.0f} {:>9.0f} {:>5.1f}% {:>8.3f} {:>8.3f} {:>8.2f} {:>8.1f} {:>5}\n",
             options.nodes, static_cast<std::uint32_t>(options.nodes) * options.streams, r.offered,
             r.tokens_per_second, 100 * r.tokens_per_second / r.offered, r.p50_ms, r.p99_ms,
             r.cpu_us, r.rss_mib, r.skipped);
  std::fflush(stdout);
}

bool good(const Report& r) {
  if (r.wrong == 0 && r.failed == 0 && r.short_of == 0 && r.all_ended) return true;
  fmt::print("FAILED: {} wrong tokens, {} failed streams, {} streams with tokens missing{}\n",
             r.wrong, r.failed, r.short_of, r.all_ended ? "" : ", and not every stream ended");
  return false;
}

// Every token of every stream once and in order, both ways, with credit that runs out.
bool smoke(Options options) {
  options.nodes = 3;
  options.streams = 8;
  options.step_us = 500;
  options.step_tokens = 3;
  options.length = 64;
  options.window = 16;
  options.warmup = 0;
  options.total = 100;
  bool all_good = true;
  print_head();
  for (const bool frontend : {false, true}) {
    options.frontend = frontend;
    const auto report = Run(options).measure();
    print(options, report);
    all_good = good(report) && report.streams == options.total && all_good;
  }
  return all_good;
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  spdlog::set_level(spdlog::level::err);
  Options options;
  std::vector<int> nodes{1};
  bool run_smoke = false;
  CLI::App app("Measures the router actor with nodes that only pretend to compute.");
  app.add_flag("--smoke", run_smoke, "A short run that checks that every token arrives once");
  app.add_option("--nodes", nodes, "Numbers of nodes, one run each")->delimiter(',');
  app.add_option("--streams", options.streams, "Streams that run on each node");
  app.add_option("--step-us", options.step_us, "Microseconds of an engine's step");
  app.add_option("--step-tokens", options.step_tokens, "Tokens of each stream in a step");
  app.add_option("--length", options.length, "Tokens of a stream");
  app.add_option("--window", options.window, "Tokens that a reader may be behind");
  app.add_option("--seconds", options.seconds, "Measured time of a run");
  app.add_option("--warmup", options.warmup, "Seconds before it");
  app.add_option("--threads", options.threads, "Threads of the actor system");
  app.add_flag("--frontend", options.frontend, "Through the frontend, as text");
  CLI11_PARSE(app, argc, argv);
  if (run_smoke) return smoke(options) ? 0 : 1;
  bool all_good = true;
  print_head();
  for (const int count : nodes) {
    options.nodes = count;
    const auto report = Run(options).measure();
    print(options, report);
    all_good = good(report) && all_good;
  }
  return all_good ? 0 : 1;
}
