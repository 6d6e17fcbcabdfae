// What a test needs around a causal model: a ledger, threads, a KV pool and sequences in it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/kv/block_table.h"
#include "engine/models/model.h"

namespace plimsoll {

// PLIMSOLL_MODELS, or where the product keeps models by default.
std::filesystem::path models_folder();

class ModelRunner {
 public:
  struct Options {
    ComputeMode compute = ComputeMode::float32;
    StepLimits limits{.tokens = 256, .sequences = 8, .logit_rows = 256, .context_tokens = 2048};
    int threads = 2;
    KvType kv_type = KvType::bf16;
    std::uint32_t kv_tokens = 4096;  // that the pool holds
    std::filesystem::path cache_directory{};
  };

  ModelRunner(const std::filesystem::path& path, Options options);

  // Null if loading failed; error() says why.
  CausalModel* model() { return model_.get(); }
  const Error& error() const { return error_; }
  Ledger& ledger() { return ledger_; }
  BlockPool& kv() { return *kv_; }
  void unload() {
    kv_.reset();
    model_.reset();
  }

  // A sequence's tokens so far, and its blocks.
  struct Sequence {
    BlockTable blocks;
    std::uint32_t length = 0;
  };
  // The next chunk of a sequence, with room made for it. `tokens` must outlive the step.
  SequenceChunk chunk(Sequence& sequence, std::span<const TokenId> tokens,
                      std::uint32_t logit_rows);
  // One step; returns the logits of all rows asked for.
  std::vector<float> step(std::span<const SequenceChunk> chunks);

  // Runs the tokens through a new sequence, in chunks; returns the logits of each position.
  std::vector<float> all_logits(std::span<const TokenId> tokens, std::uint32_t chunk_tokens);
  // The logits of the last position. The sequence goes on behind what it holds.
  std::vector<float> prefill(Sequence& sequence, std::span<const TokenId> tokens,
                             std::uint32_t chunk_tokens);
  // The `count` likeliest tokens after each prompt, one by one, all prompts in one batch.
  std::vector<std::vector<TokenId>> greedy(std::span<const std::vector<TokenId>> prompts,
                                           std::size_t count);
  void release(Sequence& sequence);

 private:
  Options options_;
  Ledger ledger_;
  ThreadPool pool_;
  Error error_;
  std::unique_ptr<CausalModel> model_;
  std::optional<BlockPool> kv_;
};

// max |a - b| / max |b|
double relative_error(std::span<const float> a, std::span<const float> b);

}  // namespace plimsoll
