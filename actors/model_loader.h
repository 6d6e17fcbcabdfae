// One model brought up: its engine on a node, its text side where requests come in.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "actors/frontend_impl.h"
#include "actors/messages.h"
#include "actors/model_source.h"
#include "actors/node.h"
#include "actors/server_config.h"
#include "actors/sizing.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"
#include "storage/tier_budget.h"

namespace plimsoll {

class ModelLoader {
 public:
  // Called while weights are packed: the model's name, bytes done, bytes in all.
  using Progress = std::function<void(const std::string&, std::uint64_t, std::uint64_t)>;

  // What an engine gave up, on its thread; must not block.
  using ShedSink = std::function<void(const std::string& model, const Shed&)>;

  // Everything given outlives the loader; the loader and the ledger outlive what it loads.
  ModelLoader(const ServerConfig& config, const ModelSource& source, Ledger& ledger,
              std::shared_ptr<NodeInbox> inbox, ShedSink on_shed = {},
              MemoryPlanner::ReadBase read_base = read_memory_base)
      : config_(config),
        source_(source),
        ledger_(ledger),
        inbox_(std::move(inbox)),
        on_shed_(std::move(on_shed)),
        planner_(config, ledger, std::move(read_base)) {}

  // Before the first engine is loaded: where prefixes go that memory has no room for, and vectors.
  void set_cache(std::shared_ptr<storage::DiskCache> cache,
                 std::shared_ptr<storage::TierBudget> budget) {
    cache_ = std::move(cache);
    tier_budget_ = std::move(budget);
  }

  // What is known without its weights.
  Result<ModelEntry> probe(const ModelConfig& model) const;
  // The tokenizer and the chat template, charged to the ledger.
  Result<std::pair<ModelText, Charge>> read_text(const ModelConfig& model,
                                                 const ModelEntry& entry) const;
  ClusterFrontend::Served serve_text(const ModelEntry& entry,
                                     std::pair<ModelText, Charge> text) const;
  // The memory of all models that are there at the start, before the first engine is loaded.
  // Errors: resource_exhausted, if they do not fit under the memory limit.
  Result<cluster::MemoryPlan> plan(const std::vector<std::pair<ModelConfig, ModelEntry>>& models);
  // Anonymous memory that this process may come to by its plan; 0 before there is one. From any
  // thread.
  std::uint64_t planned_bytes() const;
  // The weights, and a thread that runs them. May lower entry.context_tokens to what the KV memory
  // holds. From one thread at a time, at the start or later. Errors: resource_exhausted, if it is
  // in no plan and does not fit under the memory limit beside what is promised already.
  Result<ServedEngine> load_engine(const ModelConfig& model, ModelEntry& entry,
                                   const Progress& progress = {});

 private:
  Result<void> start_causal(const ModelConfig& model, const LoadOptions& options, ModelEntry& entry,
                            std::uint64_t kv_bytes, ServedEngine& out) const;
  Result<void> start_embedding(const ModelConfig& model, LoadOptions options,
                               ServedEngine& out) const;
  Result<PlannedModel> planned(const ModelConfig& model, const ModelEntry& entry) const;

  const ServerConfig& config_;
  const ModelSource& source_;
  Ledger& ledger_;
  std::shared_ptr<NodeInbox> inbox_;
  ShedSink on_shed_;
  MemoryPlanner planner_;
  std::shared_ptr<storage::DiskCache> cache_;  // null: none
  std::shared_ptr<storage::TierBudget> tier_budget_;
  Account promised_;  // what its engines may come to, in all
  // Of the plan at the start: its peak, and what of it is for engines.
  std::atomic<std::uint64_t> start_bytes_{0}, start_promised_{0};
  // Of models that the plan at the start has and that are not loaded yet.
  std::map<std::string, cluster::MemoryPlan> plans_;
};

}  // namespace plimsoll
