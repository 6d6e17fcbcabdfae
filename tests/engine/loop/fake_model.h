// Models that compute nothing real, but depend on everything a real one depends on.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/models/model.h"
#include "engine/sampling/sampler.h"

namespace plimsoll::testing {

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15U ^ (b + 0xD1B54A32D192ED03U);
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93U;
  x ^= x >> 29;
  return x;
}

// A text that repeats itself each `period` tokens, but for those that it happens to change.
struct FakeHabit {
  std::uint32_t period = 0;   // 0: it repeats nothing
  std::uint32_t percent = 0;  // of tokens, that are what they were
};

struct FakeModelOptions {
  std::uint32_t vocab = 50;
  FakeHabit habit;
  std::uint32_t window = 0;               // tokens, of two layers in three; 0: none
  StepLimits limits;                      // exceeding them throws
  std::chrono::microseconds step_time{};  // slept in each step
  TokenId nan_after = no_token;           // the logits after this token are not numbers
  std::function<void(std::span<const SequenceChunk>)> on_forward;  // on the engine's thread
};

// Logits are a function of the whole token history, which is not passed along but read back from
// the KV blocks: each token leaves a mark there that depends on its own and on the mark before it.
// A wrong block table, a block that was freed too early or written by two sequences, or a stale
// prefix changes the marks, and with them the output. With a window the marks are in the blocks of
// all layer groups, and those within it are read from there.
class FakeModel final : public CausalModel {
 public:
  explicit FakeModel(FakeModelOptions options) : options_(std::move(options)) {
    info_.kind = ModelKind::causal;
    info_.architecture = "fake";
    info_.name = "fake";
    info_.layers = options_.window > 0 ? 3 : 1;
    info_.heads = info_.kv_heads = 1;
    info_.window = options_.window;
    info_.window_pattern = 3;
    info_.hidden = info_.head_dim = 16;
    info_.vocab = options_.vocab;
    info_.context_tokens = options_.limits.context_tokens;
  }

  const ModelInfo& info() const override { return info_; }

  void forward(std::span<const SequenceChunk> chunks, BlockPool& kv, float* logits) override {
    check_limits(chunks, kv);
    if (options_.on_forward) options_.on_forward(chunks);
    if (options_.step_time.count() > 0) std::this_thread::sleep_for(options_.step_time);
    for (const SequenceChunk& chunk : chunks) {
      const std::size_t end = chunk.start_position + chunk.tokens.size();
      for (std::size_t i = 0; i < chunk.tokens.size(); ++i) {
        const std::size_t position = chunk.start_position + i;
        const std::uint64_t before = position == 0 ? 0 : read(kv, chunk.blocks, 0, position - 1);
        for (std::uint32_t group = 0; group < kv.layout().layer_groups(); ++group) {
          write(kv, chunk.blocks, group, position, mark(before, chunk.tokens[i]));
        }
      }
      for (std::size_t position = end - chunk.logit_rows; position < end; ++position) {
        std::uint64_t history = 0;
        for (std::size_t i = 0; i <= position; ++i) {
          // With a window the last tokens' marks come from the windowed groups, in turns.
          const bool seen = options_.window > 0 && i + options_.window > position;
          const auto group = seen ? static_cast<std::uint32_t>(1 + i % 2) : 0;
          history = mix(history, read(kv, chunk.blocks, group, i));
        }
        write_logits(history, position, options_.habit, {logits, options_.vocab});
        if (chunk.tokens[position - chunk.start_position] == options_.nan_after) {
          std::fill_n(logits, options_.vocab, std::numeric_limits<float>::quiet_NaN());
        }
        logits += options_.vocab;
      }
    }
  }

  // The logits after these tokens.
  static std::vector<float> logits_after(std::span<const TokenId> tokens, std::uint32_t vocab,
                                         FakeHabit habit = {}) {
    std::uint64_t history = 0;
    std::uint64_t last = 0;
    for (const TokenId token : tokens) {
      last = mark(last, token);
      history = mix(history, last);
    }
    std::vector<float> logits(vocab);
    write_logits(history, tokens.size() - 1, habit, logits);
    return logits;
  }

  // What a sequence generates alone, by the definition: no blocks, batches or engine.
  static std::vector<TokenId> generate(std::vector<TokenId> prompt, const SamplingParams& sampling,
                                       std::uint32_t max_new_tokens, std::uint32_t vocab,
                                       const std::vector<TokenId>& stop_tokens = {},
                                       FakeHabit habit = {}) {
    Sampler sampler(vocab);
    const std::size_t begin = prompt.size();
    while (prompt.size() - begin < max_new_tokens) {
      auto logits = logits_after(prompt, vocab, habit);
      const TokenId id =
          sampler.sample(logits, sampling, prompt.size(), std::span(prompt).subspan(begin)).id;
      if (std::find(stop_tokens.begin(), stop_tokens.end(), id) != stop_tokens.end()) break;
      prompt.push_back(id);
    }
    return {prompt.begin() + static_cast<std::ptrdiff_t>(begin), prompt.end()};
  }

 private:
  static std::uint64_t mark(std::uint64_t before, TokenId token) {
    return mix(before, static_cast<std::uint64_t>(token) + 1);
  }
  // Behind `position`, whose marks are this history.
  static void write_logits(std::uint64_t history, std::size_t position, FakeHabit habit,
                           std::span<float> logits) {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = static_cast<float>(mix(history, i) >> 40) * (6.0F / (1 << 24));  // [0, 6)
    }
    if (habit.period == 0 || mix(history, 1) % 100 >= habit.percent) return;
    logits[mix(habit.period, position % habit.period) % logits.size()] += 20;
  }
  static std::byte* slot(const BlockPool& kv, std::span<const BlockId> blocks, std::uint32_t group,
                         std::size_t position) {
    const KvLayout& layout = kv.layout();
    const std::size_t slot_bytes = layout.block_bytes() / layout.block_tokens;
    const BlockId block = blocks[layout.table_index(position) + group];
    if (block == no_block) throw std::logic_error("a block that was given back");
    return kv.data() + block.get() * layout.block_bytes() +
           position % layout.block_tokens * slot_bytes;
  }
  static std::uint64_t read(const BlockPool& kv, std::span<const BlockId> blocks,
                            std::uint32_t group, std::size_t position) {
    std::uint64_t value;
    std::memcpy(&value, slot(kv, blocks, group, position), sizeof(value));
    return value;
  }
  static void write(const BlockPool& kv, std::span<const BlockId> blocks, std::uint32_t group,
                    std::size_t position, std::uint64_t value) {
    std::memcpy(slot(kv, blocks, group, position), &value, sizeof(value));
  }

  void check_limits(std::span<const SequenceChunk> chunks, const BlockPool& kv) const {
    const auto require = [](bool ok, const char* what) {
      if (!ok) throw std::logic_error(what);
    };
    const StepLimits& limits = options_.limits;
    std::size_t tokens = 0, rows = 0;
    for (const SequenceChunk& chunk : chunks) {
      const std::size_t end = chunk.start_position + chunk.tokens.size();
      require(!chunk.tokens.empty(), "an empty chunk");
      require(chunk.logit_rows <= chunk.tokens.size(), "more logit rows than tokens");
      require(end <= limits.context_tokens, "the context limit");
      require(kv.layout().table_index(end - 1) < chunk.blocks.size(), "too few blocks");
      for (std::size_t i = kv.layout().table_index(chunk.start_position); i < chunk.blocks.size();
           ++i) {
        require(kv.references(chunk.blocks[i]) == 1, "a write into a shared block");
      }
      tokens += chunk.tokens.size();
      rows += chunk.logit_rows;
    }
    require(!chunks.empty(), "an empty step");
    require(chunks.size() <= limits.sequences, "the limit of sequences");
    require(tokens <= limits.tokens, "the limit of tokens");
    require(rows <= limits.logit_rows, "the limit of logit rows");
  }

  FakeModelOptions options_;
  ModelInfo info_;
};

// A vector is a function of its input's tokens, of length 1.
class FakeEmbeddingModel final : public EmbeddingModel {
 public:
  explicit FakeEmbeddingModel(
      StepLimits limits, std::uint32_t hidden = 8,
      std::function<void(std::span<const std::span<const TokenId>>)> on_embed = {})
      : limits_(limits), on_embed_(std::move(on_embed)) {
    info_.kind = ModelKind::embedding;
    info_.architecture = "fake";
    info_.name = "fake-embedding";
    info_.hidden = hidden;
    info_.vocab = 50;
    info_.context_tokens = limits.context_tokens;
  }
  const ModelInfo& info() const override { return info_; }

  void embed(std::span<const std::span<const TokenId>> batch, float* out) override {
    std::size_t tokens = 0;
    for (const auto& input : batch) tokens += input.size();
    if (batch.empty() || tokens > limits_.tokens) throw std::logic_error("the step's limits");
    if (on_embed_) on_embed_(batch);
    for (const auto& input : batch) {
      const auto vector = vector_of(input, info_.hidden);
      out = std::copy(vector.begin(), vector.end(), out);
    }
  }

  static std::vector<float> vector_of(std::span<const TokenId> input, std::uint32_t hidden) {
    std::uint64_t hash = 0;
    for (const TokenId token : input) hash = mix(hash, static_cast<std::uint64_t>(token));
    std::vector<float> vector(hidden);
    double squares = 0;
    for (std::uint32_t i = 0; i < hidden; ++i) {
      vector[i] = static_cast<float>(mix(hash, i) >> 40) / (1 << 23) - 1;
      squares += vector[i] * vector[i];
    }
    for (float& x : vector) x = static_cast<float>(x / std::sqrt(squares));
    return vector;
  }

 private:
  StepLimits limits_;
  std::function<void(std::span<const std::span<const TokenId>>)> on_embed_;
  ModelInfo info_;
};

}  // namespace plimsoll::testing
