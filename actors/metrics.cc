#include "actors/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace plimsoll {
namespace {

using Labels = std::map<std::string, std::string>;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const prometheus::Histogram::BucketBoundaries first_token_buckets = {
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
const prometheus::Histogram::BucketBoundaries inter_token_buckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5};

// Reasons come from nodes too, which may be of another version.
constexpr std::size_t most_reasons = 64;

// Families that are read off a snapshot.
class Families {
 public:
  void add(const std::string& name, const char* help, MetricType type, const Labels& labels,
           double value) {
    auto [it, fresh] = index_.try_emplace(name, families_.size());
    if (fresh) families_.push_back({name, help, type, {}});
    ClientMetric metric;
    for (const auto& [key, text] : labels) metric.label.push_back({key, text});
    if (type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    families_[it->second].metric.push_back(std::move(metric));
  }
  void gauge(const std::string& name, const char* help, const Labels& labels, double value) {
    add(name, help, MetricType::Gauge, labels, value);
  }
  void counter(const std::string& name, const char* help, const Labels& labels, double value) {
    add(name, help, MetricType::Counter, labels, value);
  }
  std::vector<MetricFamily> take() { return std::move(families_); }

 private:
  std::map<std::string, std::size_t> index_;
  std::vector<MetricFamily> families_;
};

void add_engine(Families& out, const std::string& node, const std::string& model,
                const EngineStats& stats) {
  const auto with = [&](const char* state) {
    return Labels{{"node", node}, {"model", model}, {"state", state}};
  };
  const Labels labels{{"node", node}, {"model", model}};
  const char* help = "Sequences (or embedding requests) that an engine holds.";
  out.gauge("plimsoll_sequences", help, with("waiting"), stats.waiting);
  out.gauge("plimsoll_sequences", help, with("running"), stats.running);
  out.gauge("plimsoll_sequences", help, with("paused"), stats.paused);
  help = "KV blocks by what they are used for.";
  const auto busy = stats.kv_blocks_used + stats.kv_blocks_cached;
  out.gauge("plimsoll_kv_blocks", help, with("used"), stats.kv_blocks_used);
  out.gauge("plimsoll_kv_blocks", help, with("cached"), stats.kv_blocks_cached);
  out.gauge("plimsoll_kv_blocks", help, with("free"),
            stats.kv_blocks_total > busy ? stats.kv_blocks_total - busy : 0);
  out.counter("plimsoll_steps_total", "Forward passes.", labels,
              static_cast<double>(stats.steps_total));
  out.counter("plimsoll_step_seconds_total", "Time spent in forward passes.", labels,
              stats.step_seconds_total);
  out.counter("plimsoll_restored_tokens_total",
              "Tokens whose KV came from the cache on disk, instead of being computed again.",
              labels, static_cast<double>(stats.restored_tokens_total));
  out.counter("plimsoll_drafted_tokens_total",
              "Tokens computed in advance: what followed when a text was the same before.", labels,
              static_cast<double>(stats.drafted_tokens_total));
  out.counter("plimsoll_accepted_draft_tokens_total",
              "Of the drafted tokens, those that were generated then.", labels,
              static_cast<double>(stats.accepted_draft_tokens_total));
  out.counter("plimsoll_preemptions_total", "Sequences that lost their KV blocks to others.",
              labels, static_cast<double>(stats.preemptions_total));
  help = "Sequences that an engine is done with.";
  const auto ended = [&](const char* how, std::uint64_t count) {
    out.counter("plimsoll_sequences_ended_total", help,
                {{"node", node}, {"model", model}, {"how", how}}, static_cast<double>(count));
  };
  ended("finished", stats.finished_total);
  ended("refused", stats.refused_total);
  ended("cancelled", stats.cancelled_total);
}

void add_node(Families& out, const NodeStatus& node) {
  const Labels labels{{"node", node.name}};
  out.gauge("plimsoll_node_ready", "1 while a node takes requests.", labels,
            node.state == "ready" ? 1 : 0);
  out.gauge("plimsoll_node_pressure_level", "As plimsoll_pressure_level, of each node.", labels,
            static_cast<double>(node.pressure));
  if (node.memory_limit_bytes != 0) {
    out.gauge("plimsoll_node_memory_used_bytes",
              "Of a node, what counts against the limit that is nearest.", labels,
              static_cast<double>(node.memory_used_bytes));
    out.gauge("plimsoll_node_memory_limit_bytes", "That limit.", labels,
              static_cast<double>(node.memory_limit_bytes));
  }
  for (const auto& [model, stats] : node.models) add_engine(out, node.name, model, stats);
}

void add_stalls(Families& out, const char* scope, const MemoryPressure& pressure) {
  const auto share = [&](const char* kind, double percent) {
    out.gauge("plimsoll_memory_stall_ratio",
              "Share of the last 10 seconds in which some or all tasks waited for memory (PSI).",
              {{"scope", scope}, {"kind", kind}}, percent / 100);
  };
  share("some", pressure.some_avg10);
  share("full", pressure.full_avg10);
}

void add_cache(Families& out, const storage::DiskCacheStats& stats) {
  out.gauge("plimsoll_cache_limit_bytes", "What the files of the cache on disk may come to.", {},
            static_cast<double>(stats.limit_bytes));
  const auto memory = [&](const char* part, std::uint64_t bytes) {
    out.gauge("plimsoll_cache_memory_bytes", "What the cache on disk keeps in memory.",
              {{"part", part}}, static_cast<double>(bytes));
  };
  memory("buffer", stats.buffered_bytes);
  memory("index", stats.index_bytes);
  memory("tables", stats.table_bytes);
  out.gauge("plimsoll_cache_writable", "0 while nothing can be written to the cache on disk.", {},
            stats.trouble.empty() ? 1 : 0);
  for (const auto& [tenant, kinds] : stats.tenants) {
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      const auto& counts = kinds[i];
      Labels labels{{"tenant", tenant.get()},
                    {"kind", std::string(to_string(static_cast<storage::CacheKind>(i)))}};
      const auto number = [](std::uint64_t n) { return static_cast<double>(n); };
      out.gauge("plimsoll_cache_bytes", "In files of the cache on disk.", labels,
                number(counts.bytes));
      out.gauge("plimsoll_cache_entries", "In the cache on disk.", labels, number(counts.entries));
      out.counter("plimsoll_cache_accepted_bytes_total", "Of values that the cache on disk took.",
                  labels, number(counts.accepted_bytes_total));
      out.counter("plimsoll_cache_written_bytes_total", "To the cache on disk.", labels,
                  number(counts.written_bytes_total));
      const char* help = "Entries of the cache on disk that were looked for.";
      const auto lookups = [&](const char* result, std::uint64_t n) {
        labels["result"] = result;
        out.counter("plimsoll_cache_lookups_total", help, labels, number(n));
      };
      lookups("hit", counts.hits_total);
      lookups("miss", counts.misses_total);
      labels.erase("result");
      help = "Entries that the cache on disk gave up, or never took (refused, dropped).";
      const auto lost = [&](const char* why, std::uint64_t n) {
        labels["why"] = why;
        out.counter("plimsoll_cache_lost_total", help, labels, number(n));
      };
      lost("evicted", counts.evicted_total);
      lost("expired", counts.expired_total);
      lost("purged", counts.purged_total);
      lost("damaged", counts.damaged_total);
      lost("refused", counts.refused_total);
      lost("dropped", counts.dropped_total);
    }
  }
}

const char* name(MemoryScope::Kind kind) {
  switch (kind) {
    case MemoryScope::Kind::process: return "process";
    case MemoryScope::Kind::cgroup: return "cgroup";
    case MemoryScope::Kind::machine: break;
  }
  return "machine";
}

void add_headroom(Families& out, const Metrics::Snapshot& snapshot) {
  for (const auto& scope : snapshot.scopes) {
    const Labels labels{{"scope", name(scope.kind)}};
    out.gauge("plimsoll_memory_used_bytes",
              "Used under a limit, without what the kernel can take back.", labels,
              static_cast<double>(scope.used_bytes));
    out.gauge("plimsoll_memory_limit_bytes", "The limit.", labels,
              static_cast<double>(scope.limit_bytes));
  }
  const auto growth = snapshot.board.growth();
  out.gauge("plimsoll_memory_growth_bytes_per_second",
            "Slope of anonymous memory outside KV, over the last minute.", {},
            growth.bytes_per_second);
  const auto left = [&](const char* slope, const std::optional<double>& seconds) {
    if (!seconds) return;
    out.gauge("plimsoll_memory_seconds_to_limit",
              "Until a memory limit is reached at the present slope; absent if nothing grows.",
              {{"slope", slope}}, *seconds);
  };
  left("recent", growth.limit_left_s);
  left("steady", growth.alarm_left_s);
}

void add_events(Families& out, const cluster::EventLog& events) {
  for (std::size_t i = 0; i < cluster::event_kinds; ++i) {
    const auto kind = static_cast<cluster::EventKind>(i);
    out.counter("plimsoll_events_total", "What the memory governor saw and did, by kind.",
                {{"kind", std::string(to_string(kind))}}, static_cast<double>(events.total(kind)));
  }
}

void add_ledger(Families& out, const std::string& node, const MemoryReport& report) {
  const auto row = [&](std::string_view component, const std::string& version,
                       const std::string& tenant, Endpoint endpoint, std::string_view kind,
                       std::int64_t bytes) {
    const std::string model = version.substr(0, version.find('@'));
    out.gauge("plimsoll_memory_bytes", "The memory ledger, and what it does not explain.",
              {{"node", node},
               {"component", std::string(component)},
               {"model", model},
               {"version", version},
               {"tenant", tenant},
               {"endpoint", std::string(to_string(endpoint))},
               {"kind", std::string(kind)}},
              static_cast<double>(bytes));
  };
  for (const auto& r : report.rows) {
    row(to_string(r.component), r.model, r.tenant, r.endpoint, to_string(r.kind), r.bytes);
  }
  row("unattributed", "", shared_tenant.get(), Endpoint::none, "anonymous",
      report.unattributed_bytes);
}

void add_phases(Families& out, const MemoryPhases& phases) {
  const auto phase = [&](const char* name, const std::optional<std::uint64_t>& bytes) {
    if (!bytes) return;
    out.gauge("plimsoll_memory_phase_bytes",
              "Anonymous memory by phase: the peak of the start, the median of the last hours, and "
              "the highest of them over it.",
              {{"phase", name}}, static_cast<double>(*bytes));
  };
  phase("cold_start_peak", phases.cold_start_peak_bytes);
  phase("steady", phases.steady_bytes);
  phase("burst", phases.burst_bytes);
  if (phases.growth_bytes_per_second) {
    out.gauge("plimsoll_memory_trend_bytes_per_second",
              "Slope of anonymous memory over the last hours.", {},
              *phases.growth_bytes_per_second);
  }
}

void add_memory(Families& out, const MemoryReport& report) {
  const char* help = "What the kernel says about this process.";
  const auto process = [&](const char* kind, std::uint64_t bytes) {
    out.gauge("plimsoll_process_memory_bytes", help, {{"kind", kind}}, static_cast<double>(bytes));
  };
  process("rss", report.process.rss_bytes);
  process("pss", report.process.pss_bytes);
  process("anonymous", report.process.anonymous_bytes);
  process("file", report.process.file_bytes);
  process("swap", report.process.swap_bytes);
  if (report.pressure && report.pressure->cgroup_scoped)
    add_stalls(out, "cgroup", *report.pressure);
  if (report.phases) add_phases(out, *report.phases);
  if (report.host_pressure) add_stalls(out, "host", *report.host_pressure);
  if (report.cgroup) {
    out.gauge("plimsoll_cgroup_memory_bytes", "Memory of this process's cgroup.", {},
              static_cast<double>(report.cgroup->current_bytes));
    if (report.cgroup->oom_kills) {
      out.counter("plimsoll_cgroup_oom_kills_total", "OOM kills in this process's cgroup.", {},
                  static_cast<double>(*report.cgroup->oom_kills));
    }
  }
}

}  // namespace

struct Metrics::Counters {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& requests =
      prometheus::BuildCounter()
          .Name("plimsoll_requests_total")
          .Help("Requests that have ended; code is \"ok\" or the error's.")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& tokens =
      prometheus::BuildCounter()
          .Name("plimsoll_tokens_total")
          .Help("Tokens of requests that have ended; prompt includes cached.")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& refusals =
      prometheus::BuildCounter()
          .Name("plimsoll_refusals_total")
          .Help("Requests that ended with an error before their first token, by its reason.")
          .Register(registry);
  prometheus::Family<prometheus::Histogram>& first_token =
      prometheus::BuildHistogram()
          .Name("plimsoll_time_to_first_token_seconds")
          .Help("From a request's arrival to its first token.")
          .Register(registry);
  prometheus::Family<prometheus::Histogram>& inter_token =
      prometheus::BuildHistogram()
          .Name("plimsoll_inter_token_latency_seconds")
          .Help("Between two tokens of one choice.")
          .Register(registry);

  std::string bounded(const std::string& reason) {
    const std::lock_guard lock(mutex);
    if (reasons.contains(reason) || reasons.size() < most_reasons) {
      return *reasons.insert(reason).first;
    }
    return "other";
  }

 private:
  std::mutex mutex;
  std::set<std::string> reasons;
};

Metrics::Metrics() : counters_(std::make_unique<Counters>()) {}
Metrics::~Metrics() = default;

void Metrics::request_ended(Operation operation, const TenantId& tenant, const std::string& model,
                            const Error* error, const GenerationUsage& usage) {
  const std::string code = error != nullptr ? std::string(to_string(error->code)) : "ok";
  counters_->requests
      .Add({{"operation", operation == Operation::generate ? "generate" : "embed"},
            {"tenant", tenant.get()},
            {"model", model},
            {"code", code}})
      .Increment();
  if (error != nullptr && error->code != ErrorCode::cancelled && usage.completion_tokens == 0) {
    const auto reason = counters_->bounded(error->reason.empty() ? code : error->reason);
    counters_->refusals.Add({{"tenant", tenant.get()}, {"reason", reason}}).Increment();
  }
  const auto count = [&](const char* kind, std::uint32_t tokens) {
    if (tokens == 0) return;
    counters_->tokens.Add({{"tenant", tenant.get()}, {"model", model}, {"kind", kind}})
        .Increment(tokens);
  };
  count("prompt", usage.prompt_tokens);
  count("cached", usage.cached_tokens);
  count("generated", usage.completion_tokens);
}

Metrics::TokenTimes Metrics::token_times(const std::string& model) {
  TokenTimes times;
  times.first_ = &counters_->first_token.Add({{"model", model}}, first_token_buckets);
  times.next_ = &counters_->inter_token.Add({{"model", model}}, inter_token_buckets);
  return times;
}

void Metrics::TokenTimes::first(double seconds) { first_->Observe(seconds); }
void Metrics::TokenTimes::next(std::uint32_t tokens, double seconds) {
  for (std::uint32_t i = 0; i < tokens; ++i) next_->Observe(seconds / tokens);
}

std::string Metrics::text(const Snapshot& snapshot) const {
  const auto& status = snapshot.status;
  Families out;
  out.gauge("plimsoll_build_info", "The version, as a label.", {{"version", status.version}}, 1);
  out.gauge("plimsoll_uptime_seconds", "Since the process started.", {}, status.uptime_seconds);
  out.gauge("plimsoll_pressure_level", "0 green, 1 yellow, 2 orange, 3 red.", {},
            static_cast<double>(status.pressure));
  out.gauge("plimsoll_open_requests", "Requests between arrival and their end.", {},
            snapshot.open_requests);
  for (const auto& node : status.nodes) add_node(out, node);
  if (snapshot.memory) {
    add_memory(out, *snapshot.memory);
    add_ledger(out, snapshot.board.name(), *snapshot.memory);
  }
  for (const auto& node : snapshot.board.memory()) add_ledger(out, node.node, *node.report);
  add_headroom(out, snapshot);
  if (snapshot.cache != nullptr) add_cache(out, snapshot.cache->stats());
  add_events(out, snapshot.board.events());

  auto families = counters_->registry.Collect();
  for (auto& family : out.take()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace plimsoll
