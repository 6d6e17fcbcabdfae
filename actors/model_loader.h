// One model brought up: its engine on a node, its text side where requests come in.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "actors/frontend_impl.h"
#include "actors/messages.h"
#include "actors/model_source.h"
#include "actors/node.h"
#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

class ModelLoader {
 public:
  // Called while weights are packed: the model's name, bytes done, bytes in all.
  using Progress = std::function<void(const std::string&, std::uint64_t, std::uint64_t)>;

  // What an engine gave up, on its thread; must not block.
  using ShedSink = std::function<void(const std::string& model, const Shed&)>;

  // Everything given outlives the loader; the loader and the ledger outlive what it loads.
  ModelLoader(const ServerConfig& config, const ModelSource& source, Ledger& ledger,
              std::shared_ptr<NodeInbox> inbox, ShedSink on_shed = {})
      : config_(config),
        source_(source),
        ledger_(ledger),
        inbox_(std::move(inbox)),
        on_shed_(std::move(on_shed)) {}

  // What is known without its weights.
  Result<ModelEntry> probe(const ModelConfig& model) const;
  // The tokenizer and the chat template.
  Result<ClusterFrontend::Served> load_text(const ModelConfig& model,
                                            const ModelEntry& entry) const;
  // The weights, and a thread that runs them. May lower entry.context_tokens to what the KV memory
  // holds. From one thread at a time, at the start or later. Errors: resource_exhausted, if its KV
  // memory does not fit under the memory limit beside what is promised already.
  Result<ServedEngine> load_engine(const ModelConfig& model, ModelEntry& entry,
                                   const Progress& progress = {}) const;

 private:
  Result<void> start_causal(const ModelConfig& model, const LoadOptions& options, ModelEntry& entry,
                            ServedEngine& out) const;
  Result<void> start_embedding(const ModelConfig& model, LoadOptions options,
                               ServedEngine& out) const;
  Result<Charge> promise_kv() const;

  const ServerConfig& config_;
  const ModelSource& source_;
  Ledger& ledger_;
  std::shared_ptr<NodeInbox> inbox_;
  ShedSink on_shed_;
  mutable Account kv_promised_;  // what the KV pools of its engines may grow to, in all
};

}  // namespace plimsoll
