#include "actors/model_loader.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "storage/embedding_tier.h"
#include "storage/prefix_tier.h"

namespace plimsoll {
namespace {

cluster::KvBytes kv_bytes_of(const ModelInfo& info, const EngineSettings& engine) {
  if (info.kind != ModelKind::causal) return {};
  const KvLayout layout = layout_of(engine, info);
  return {layout.token_bytes(),
          layout.token_bytes() * layout.windowed_groups / layout.layer_groups(), layout.window};
}

}  // namespace

Result<ModelEntry> ModelLoader::probe(const ModelConfig& model) const {
  auto info = source_.probe(model);
  if (!info) return fail(std::move(info.error()));
  auto hash = source_.content_hash(model);
  if (!hash) return fail(std::move(hash.error()));
  ModelEntry entry;
  entry.name = model.name;
  entry.version = model.name + "@" + *hash;
  entry.path = model.path.string();
  entry.info = std::move(*info);
  entry.context_tokens = std::min(config_.engine.context_tokens, entry.info.context_tokens);
  entry.created = static_cast<std::uint64_t>(std::time(nullptr));
  return entry;
}

Result<std::pair<ModelText, Charge>> ModelLoader::read_text(const ModelConfig& model,
                                                            const ModelEntry& entry) const {
  auto text = source_.text(model);
  if (!text) return fail(std::move(text.error()));
  auto& account = ledger_.account(Component::tokenizer, entry.version, shared_tenant);
  const auto bytes = text->tokenizer->memory_bytes();
  return std::pair(std::move(*text), Charge(account, bytes));
}

ClusterFrontend::Served ModelLoader::serve_text(const ModelEntry& entry,
                                                std::pair<ModelText, Charge> text) const {
  ClusterFrontend::Served served;
  served.memory = std::move(text.second);
  served.text = std::make_shared<TextModel>(entry.name, std::move(text.first), entry.context_tokens,
                                            kv_bytes_of(entry.info, config_.engine), entry.version);
  served.kind = entry.info.kind;
  served.version = entry.version;
  return served;
}

Result<PlannedModel> ModelLoader::planned(const ModelConfig& model, const ModelEntry& entry) const {
  PlannedModel out{entry.name, entry.info, entry.context_tokens, {}};
  if (!source_.memory) return out;
  auto memory = source_.memory(model);
  if (!memory) return fail(std::move(memory.error()));
  out.memory = std::move(*memory);
  return out;
}

Result<cluster::MemoryPlan> ModelLoader::plan(
    const std::vector<std::pair<ModelConfig, ModelEntry>>& models) {
  std::vector<PlannedModel> all;
  for (const auto& [model, entry] : models) {
    auto one = planned(model, entry);
    if (!one) return fail(std::move(one.error()));
    all.push_back(std::move(*one));
  }
  auto plan = planner_.at_start(all);
  if (!plan) return plan;
  std::uint64_t promised = 0;
  for (const auto& [model, entry] : models) {
    plans_.insert_or_assign(model.name, *plan);
    promised += MemoryPlanner::promised_bytes(*plan, model.name);
  }
  start_promised_ = promised;
  start_bytes_ = plan->peak_bytes;
  return plan;
}

std::uint64_t ModelLoader::planned_bytes() const {
  const std::uint64_t at_start = start_promised_;
  const auto now = static_cast<std::uint64_t>(std::max<std::int64_t>(0, promised_.bytes()));
  return start_bytes_ + (now > at_start ? now - at_start : 0);
}

Result<ServedEngine> ModelLoader::load_engine(const ModelConfig& model, ModelEntry& entry,
                                              const Progress& progress) {
  const auto& settings = config_.engine;
  auto plan = plans_.extract(model.name);
  if (plan.empty()) {
    auto one = planned(model, entry);
    if (!one) return fail(std::move(one.error()));
    auto made = planner_.one_more(*one, static_cast<std::uint64_t>(promised_.bytes()));
    if (!made) return fail(std::move(made.error()));
    plans_.emplace(model.name, std::move(*made));
    plan = plans_.extract(model.name);
  }
  ServedEngine out;
  out.promised = Charge(promised_, MemoryPlanner::promised_bytes(plan.mapped(), model.name));
  out.model = model.name;
  out.version = entry.version;
  out.pool = std::make_unique<ThreadPool>(thread_count(settings));

  LoadOptions options;
  options.model_version = entry.version;
  options.compute = model.compute;
  options.cache_directory = settings.packed_directory;
  options.limits.context_tokens = entry.context_tokens;
  options.limits.sequences = settings.max_batch;
  options.limits.logit_rows = settings.max_batch;
  options.limits.tokens = settings.step_tokens;
  options.ledger = &ledger_;
  options.pool = out.pool.get();
  if (progress) {
    options.progress = [&](std::uint64_t done, std::uint64_t total) {
      progress(model.name, done, total);
    };
  }
  const auto kv_bytes = MemoryPlanner::kv_bytes(plan.mapped(), model.name);
  auto started = entry.info.kind == ModelKind::causal
                     ? start_causal(model, options, entry, kv_bytes, out)
                     : start_embedding(model, options, out);
  if (!started) return fail(std::move(started.error()));
  return out;
}

Result<void> ModelLoader::start_causal(const ModelConfig& model, const LoadOptions& options,
                                       ModelEntry& entry, std::uint64_t kv_bytes,
                                       ServedEngine& out) const {
  auto causal = source_.causal(model, options);
  if (!causal) return fail(std::move(causal.error()));
  const auto& settings = config_.engine;
  // No sequence may be longer than what the pool holds: it could never end.
  const KvLayout layout = layout_of(settings, (*causal)->info());
  const std::uint64_t pool_tokens =
      demand_of(settings, layout).tokens_within(kv_bytes / layout.block_bytes());
  if (pool_tokens > 0 && pool_tokens < entry.context_tokens) {
    spdlog::warn("event=context_capped model={} context_tokens={} kv_memory_holds={}", model.name,
                 entry.context_tokens, pool_tokens);
    entry.context_tokens = static_cast<std::uint32_t>(pool_tokens);
  }
  EngineConfig config;
  config.model_version = options.model_version;
  config.block_tokens = settings.block_tokens;
  config.kv_type = settings.kv_type;
  config.kv_budget_bytes = kv_bytes;
  config.limits = options.limits;
  config.chunk_tokens = settings.chunk_tokens;
  config.queue_length = settings.queue_length;
  config.queue_time = settings.queue_time;
  config.ttft_objective = settings.ttft_objective;
  config.tenant_sequences = settings.tenant_sequences;
  config.headroom = {settings.low_latency_headroom / 100.0, settings.batch_headroom / 100.0,
                     settings.long_context_headroom / 100.0};
  config.long_context_tokens = settings.long_context_tokens;
  config.prefix_sharing = settings.prefix_sharing;
  config.speculation = settings.speculation;
  if (cache_ != nullptr && settings.prefix_sharing) {
    storage::PrefixTierOptions tier;
    tier.model = options.model_version;
    // What is computed otherwise has other bits.
    tier.variant = fmt::format("{}/{}", to_string(model.compute), to_string(settings.kv_type));
    tier.block_tokens = settings.block_tokens;
    tier.block_bytes = layout.layer_groups() * layout.block_bytes();
    config.tier = storage::make_prefix_tier(cache_, std::move(tier), tier_budget_, ledger_);
  }
  if (on_shed_) {
    config.on_shed = [this, name = model.name](const Shed& shed) { on_shed_(name, shed); };
  }
  auto engine =
      Engine::start(std::move(*causal), config, ledger_, make_engine_sink(inbox_, ledger_));
  if (!engine) return fail(std::move(engine.error()));
  out.engine = std::move(*engine);
  return {};
}

Result<void> ModelLoader::start_embedding(const ModelConfig& model, LoadOptions options,
                                          ServedEngine& out) const {
  // One input is never split.
  options.limits.tokens = std::max(options.limits.tokens, options.limits.context_tokens);
  auto embedding = source_.embedding(model, options);
  if (!embedding) return fail(std::move(embedding.error()));
  const auto& settings = config_.engine;
  EmbeddingEngineConfig config;
  config.model_version = options.model_version;
  config.limits = options.limits;
  config.max_batch = settings.max_batch;
  config.queue_length = settings.queue_length;
  config.tenant_requests = settings.tenant_sequences;
  config.request_inputs = RequestLimits::embedding_inputs;
  config.queue_time = settings.queue_time;
  if (cache_ != nullptr) {
    storage::EmbeddingTierOptions tier;
    tier.model = options.model_version;
    tier.variant = to_string(model.compute);
    tier.hidden = (*embedding)->info().hidden;
    config.tier = storage::make_embedding_tier(cache_, std::move(tier), tier_budget_, ledger_);
  }
  auto engine = EmbeddingEngine::start(std::move(*embedding), config, ledger_);
  if (!engine) return fail(std::move(engine.error()));
  out.embedding = std::move(*engine);
  return {};
}

}  // namespace plimsoll
