// The plan of a process's memory: what this machine, this configuration and its models are, put to
// the capacity model (cluster/sizing.h) before anything is loaded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "actors/messages.h"
#include "actors/model_source.h"
#include "actors/server_config.h"
#include "cluster/sizing.h"
#include "engine/base/result.h"
#include "engine/memory/headroom.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// What is there before models are: the limits, and what this process holds already.
struct MemoryBase {
  std::vector<cluster::SizingLimit> limits;  // never empty
  std::uint64_t own_bytes = 0;               // anonymous memory
};
Result<MemoryBase> read_memory_base(std::uint64_t process_limit_bytes);

struct PlannedModel {
  std::string name;
  ModelInfo info;
  std::uint32_t context_tokens = 0;
  ModelMemory memory;
};

// Of a causal model's keys and values; and what a sequence takes.
KvLayout layout_of(const EngineSettings& engine, const ModelInfo& info);
KvDemand demand_of(const EngineSettings& engine, const KvLayout& layout);

// Not thread-safe.
class MemoryPlanner {
 public:
  using ReadBase = std::function<Result<MemoryBase>(std::uint64_t process_limit_bytes)>;
  // `config` and `ledger` outlive it.
  MemoryPlanner(const ServerConfig& config, const Ledger& ledger, ReadBase read = read_memory_base)
      : config_(config), ledger_(ledger), read_(std::move(read)) {}

  // Of all models that the configuration names, before the first is loaded; their tokenizers are
  // there. Errors: resource_exhausted, with the arithmetic and what to lower.
  Result<cluster::MemoryPlan> at_start(const std::vector<PlannedModel>& models);
  // Of one more, beside what `promised_bytes` of others' plans say. Errors: as before.
  Result<cluster::MemoryPlan> one_more(const PlannedModel& model, std::uint64_t promised_bytes);

  // Of a model in a plan: all that it may come to.
  static std::uint64_t promised_bytes(const cluster::MemoryPlan& plan, const std::string& model);
  static std::uint64_t kv_bytes(const cluster::MemoryPlan& plan, const std::string& model);

 private:
  Result<cluster::SizingProblem> problem(const std::vector<PlannedModel>& models,
                                         std::uint64_t promised_bytes);
  std::vector<cluster::PlanRow> fixed_rows(const HttpConfig& http, std::uint64_t limit_bytes,
                                           std::uint64_t promised_bytes) const;

  const ServerConfig& config_;
  const Ledger& ledger_;
  const ReadBase read_;
  std::optional<std::uint64_t> process_bytes_;  // without tokenizers, before the first model
};

}  // namespace plimsoll
