#include "actors/sizing.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "actors/request_memory.h"
#include "actors/requests.h"
#include "engine/loop/embedding_engine.h"
#include "engine/loop/engine.h"
#include "engine/memory/process_memory.h"

namespace plimsoll {
namespace {

using cluster::PlanRow;

// What threads, connections to routers and stores, and the allocator's caches take once all is up.
constexpr std::uint64_t started_bytes = 1_MiB;
// A sequence that waits in its engine, beside its tokens.
constexpr std::uint64_t waiting_bytes = 1024;
// A pool that is smaller than this many tokens is of little use: better to lower something else.
constexpr std::uint32_t least_pool_tokens = 1024;
// Of a machine that has other uses too, and no limit for this one.
constexpr double share_of_a_machine = 0.25;

// The settings that the plan proposes to lower, in this order.
enum Knob : std::size_t { batch, step, context, body, connections, kv, knob_count };

struct Caps {
  EngineSettings engine;
  HttpConfig http;
};

Caps with(const ServerConfig& config, const std::vector<std::uint64_t>& values) {
  Caps caps{config.engine, config.http};
  if (values.empty()) return caps;
  caps.engine.max_batch = static_cast<std::uint32_t>(values[batch]);
  caps.engine.step_tokens = static_cast<std::uint32_t>(values[step]);
  caps.engine.context_tokens = static_cast<std::uint32_t>(values[context]);
  caps.http.body_bytes = values[body];
  caps.http.connections = static_cast<std::uint32_t>(values[connections]);
  if (caps.engine.kv_bytes) caps.engine.kv_bytes = values[kv];
  return caps;
}

std::string size_text(std::uint64_t bytes) {
  if (bytes % 1_MiB == 0) return fmt::format("{}MiB", bytes / 1_MiB);
  return fmt::format("{}KiB", bytes / 1_KiB);
}

StepLimits limits_of(const EngineSettings& engine, std::uint32_t context_tokens) {
  StepLimits limits;
  limits.context_tokens = std::min(engine.context_tokens, context_tokens);
  limits.sequences = engine.max_batch;
  limits.logit_rows = engine.max_batch;
  limits.tokens = engine.step_tokens;
  return limits;
}

void add_model(const PlannedModel& model, const EngineSettings& engine,
               cluster::SizingNeeds& needs) {
  auto limits = limits_of(engine, model.context_tokens);
  const bool causal = model.info.kind == ModelKind::causal;
  // One input of an embedding is never split.
  if (!causal) limits.tokens = std::max(limits.tokens, limits.context_tokens);
  const int threads = thread_count(engine);
  if (model.memory.weight_bytes > 0) {
    needs.rows.push_back(
        {"weights", model.name, model.memory.weight_bytes, "expanded; the rest is mapped"});
  }
  std::uint64_t bytes = causal
                            ? Engine::required_bytes(limits, model.info.vocab)
                            : EmbeddingEngine::required_bytes(limits.sequences, model.info.hidden);
  if (model.memory.activation_bytes) bytes += model.memory.activation_bytes(limits, threads);
  needs.rows.push_back({"activations", model.name, bytes,
                        fmt::format("steps of {} tokens, {} sequences, contexts of {}",
                                    limits.tokens, limits.sequences, limits.context_tokens)});
  if (!causal) return;
  const auto layout = layout_of(engine, model.info);
  const KvDemand demand = demand_of(engine, layout);
  const auto bytes_of = [&](std::uint32_t sequence_tokens) {
    return std::uint64_t{demand.blocks(demand.rows(sequence_tokens))} * layout.block_bytes();
  };
  needs.kv.push_back({model.name, std::max<std::uint64_t>(1, layout.token_bytes()),
                      bytes_of(std::min(limits.context_tokens, least_pool_tokens)),
                      bytes_of(limits.context_tokens) * limits.sequences, engine.kv_bytes});
}

// A sequence that waits is in its engine too, with its tokens and room for those to come, of which
// the first page is touched.
void add_queues(const Caps& caps, std::uint64_t limit_bytes,
                const std::vector<PlannedModel>& models, cluster::SizingNeeds& needs) {
  constexpr std::uint64_t page_bytes = 4096;
  constexpr double request_bytes = open_request_bytes + open_choice_bytes;
  std::uint64_t all = 0;
  double most = 0;  // of what its request takes of the budget
  for (const auto& model : models) {
    if (model.info.kind != ModelKind::causal) continue;
    const std::uint64_t tokens =
        sizeof(TokenId) * std::min(caps.engine.context_tokens, model.context_tokens);
    const auto longest = static_cast<double>(tokens);
    const auto shortest = static_cast<double>(std::min(tokens, page_bytes));
    all += caps.engine.queue_length * (waiting_bytes + tokens);
    most = std::max({most, (waiting_bytes + shortest) / request_bytes,
                     (waiting_bytes + longest) / (request_bytes + longest)});
  }
  if (all == 0) return;
  const auto requests = request_memory_bytes(limit_bytes, caps.http.body_bytes);
  const auto bytes =
      std::min(all, static_cast<std::uint64_t>(most * static_cast<double>(requests)));
  needs.rows.push_back({"queues", "", bytes, "of as many sequences as the requests may be"});
}

}  // namespace

KvLayout layout_of(const EngineSettings& engine, const ModelInfo& info) {
  return kv_layout(info, engine.block_tokens, engine.kv_type);
}

KvDemand demand_of(const EngineSettings& engine, const KvLayout& layout) {
  return KvDemand::of(layout, std::min(engine.chunk_tokens, engine.step_tokens));
}

int thread_count(const EngineSettings& settings) {
  if (settings.threads > 0) return settings.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Result<MemoryBase> read_memory_base(std::uint64_t process_limit_bytes) {
  purge_allocator();
  const auto process = read_process_memory();
  if (!process) return fail(process.error());
  const auto scopes = read_memory_scopes(process_limit_bytes);
  if (!scopes) return fail(scopes.error());
  MemoryBase base;
  base.own_bytes = process->anonymous_bytes;
  for (const auto& scope : *scopes) {
    const bool own = scope.kind == MemoryScope::Kind::process;
    const auto others =
        own ? 0 : scope.used_bytes - std::min(scope.used_bytes, process->anonymous_bytes);
    base.limits.push_back({static_cast<cluster::Scope>(scope.kind), scope.limit_bytes, others});
  }
  return base;
}

std::vector<PlanRow> MemoryPlanner::fixed_rows(const HttpConfig& http, std::uint64_t limit_bytes,
                                               std::uint64_t promised_bytes) const {
  std::vector<PlanRow> rows;
  rows.push_back({"runtime", "", *process_bytes_ + started_bytes,
                  fmt::format("{} are there, {} for threads and what starts",
                              cluster::mebibytes_text(*process_bytes_),
                              cluster::mebibytes_text(started_bytes))});
  std::uint64_t tokenizers = 0;
  for (const auto& row : ledger_.snapshot()) {
    if (row.component == Component::tokenizer) {
      tokenizers += static_cast<std::uint64_t>(std::max<std::int64_t>(0, row.bytes));
    }
  }
  if (tokenizers > 0) rows.push_back({"tokenizer", "", tokenizers, "of all models"});
  if (config_.gateway_memory) {
    for (auto& row : config_.gateway_memory(http, config_.rpc, limit_bytes)) {
      rows.push_back(std::move(row));
    }
  }
  rows.push_back({"requests", "", request_memory_bytes(limit_bytes, http.body_bytes),
                  "bodies, their parse, texts, answers in one piece: the budget"});
  if (!config_.cache.directory.empty() && config_.role != Role::router) {
    rows.push_back({"storage", "cache on disk", config_.cache.memory_bytes,
                    "its buffers, index and tables: cache.memory"});
  }
  if (promised_bytes > 0) {
    rows.push_back({"models", "", promised_bytes, "what those that are loaded may come to"});
  }
  return rows;
}

Result<cluster::SizingProblem> MemoryPlanner::problem(const std::vector<PlannedModel>& models,
                                                      std::uint64_t promised_bytes) {
  auto base = read_(config_.memory_limit_bytes);
  if (!base) return fail(std::move(base.error()));
  cluster::SizingProblem problem;
  problem.limit = cluster::tightest(problem.pressure, base->limits);
  if (problem.limit.scope == cluster::Scope::machine) problem.kv_share = share_of_a_machine;
  if (!process_bytes_) {
    const auto tokenizers = static_cast<std::uint64_t>(
        std::max<std::int64_t>(0, ledger_.total_bytes(MemoryKind::anonymous)));
    process_bytes_ = base->own_bytes - std::min(base->own_bytes, tokenizers);
  }
  const auto& engine = config_.engine;
  const auto least_step = std::max<std::uint64_t>(16, (engine.max_batch + 15) / 16 * 16);
  const bool chunks_too = least_step < engine.chunk_tokens;
  problem.knobs.resize(knob_count);
  problem.knobs[batch] = {"engine.max_batch", engine.max_batch, 1, 1, {}};
  problem.knobs[step] = {
      chunks_too ? "engine.step_tokens and engine.chunk_tokens" : "engine.step_tokens",
      engine.step_tokens,
      least_step,
      16,
      {}};
  problem.knobs[context] = {"engine.context_tokens", engine.context_tokens, 256, 16, {}};
  problem.knobs[body] = {"http.body_limit", config_.http.body_bytes, 64_KiB, 64_KiB, size_text};
  problem.knobs[connections] = {"http.connections", config_.http.connections, 16, 16, {}};
  const std::uint64_t kv_bytes = engine.kv_bytes.value_or(0);
  problem.knobs[kv] = {"engine.kv_memory", kv_bytes, std::min(kv_bytes, std::uint64_t{1_MiB}),
                       1_MiB, size_text};
  problem.needs = [this, models, promised_bytes,
                   limit = problem.limit.limit_bytes](const std::vector<std::uint64_t>& values) {
    auto caps = with(config_, values);
    cluster::SizingNeeds needs;
    needs.rows = fixed_rows(caps.http, limit, promised_bytes);
    for (const auto& model : models) add_model(model, caps.engine, needs);
    add_queues(caps, limit, models, needs);
    return needs;
  };
  return problem;
}

Result<cluster::MemoryPlan> MemoryPlanner::at_start(const std::vector<PlannedModel>& models) {
  const auto put = problem(models, 0);
  if (!put) return fail(put.error());
  auto plan = plan_memory(*put);
  for (const auto& model : models) plan.mapped_bytes += model.memory.mapped_bytes;
  if (plan.missing_bytes == 0) return plan;
  return fail(ErrorCode::resource_exhausted, refusal_text(plan));
}

Result<cluster::MemoryPlan> MemoryPlanner::one_more(const PlannedModel& model,
                                                    std::uint64_t promised_bytes) {
  auto put = problem({model}, promised_bytes);
  if (!put) return fail(std::move(put.error()));
  put->knobs.clear();  // what runs cannot be changed now
  auto plan = plan_memory(*put);
  plan.mapped_bytes += model.memory.mapped_bytes;
  if (plan.missing_bytes == 0) return plan;
  return fail(ErrorCode::resource_exhausted,
              refusal_text(plan) + ", or unload another model" +
                  (config_.engine.kv_bytes ? ""
                                           : ", or give engine.kv_memory a size: `auto` took "
                                             "the rest for the models at the start"));
}

std::uint64_t MemoryPlanner::kv_bytes(const cluster::MemoryPlan& plan, const std::string& model) {
  const auto kv = std::ranges::find(plan.kv, model, &cluster::KvPlan::model);
  return kv == plan.kv.end() ? 0 : kv->bytes;
}

std::uint64_t MemoryPlanner::promised_bytes(const cluster::MemoryPlan& plan,
                                            const std::string& model) {
  std::uint64_t bytes = kv_bytes(plan, model);
  for (const auto& row : plan.rows) {
    const bool its =
        row.what == model && (row.component == "weights" || row.component == "activations");
    if (its) bytes += row.bytes;
  }
  return bytes;
}

}  // namespace plimsoll
