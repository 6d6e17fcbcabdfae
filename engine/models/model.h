// Models: a causal language model that runs one step for a whole batch, and an embedding model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/kernels/cpu/packed.h"
#include "engine/kernels/cpu/thread_pool.h"
#include "engine/kv/block_pool.h"
#include "engine/memory/ledger.h"
#include "engine/tokenizer/tokenizer.h"

namespace plimsoll {

enum class ModelKind : std::uint8_t { causal, embedding };

// float32 computes with the weights exactly as the file defines them; int8 with packed weights
// and 8-bit activations; bf16 with both rounded to bfloat16, as far as the file has them as floats,
// and otherwise as int8. `automatic`: int8 for quantized files; of float files, bf16 for embedding
// models, and float32 for causal ones.
enum class ComputeMode : std::uint8_t { automatic, float32, bf16, int8 };
constexpr std::string_view to_string(ComputeMode mode) {
  constexpr std::string_view names[] = {"auto", "float32", "bf16", "int8"};
  return names[static_cast<std::size_t>(mode)];
}

struct ModelInfo {
  ModelKind kind = ModelKind::causal;
  std::string architecture;  // "llama", "qwen2", "qwen3", "gemma3", "bert"
  std::string name;          // general.name, or the folder's
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t vocab = 0;
  std::uint32_t context_tokens = 0;  // what the model was trained for
  // Every window_pattern-th layer sees all tokens, the others the last `window`. 0: all see all.
  std::uint32_t window = 0, window_pattern = 0;
  std::uint64_t parameters = 0;
  std::uint64_t file_bytes = 0;
  std::string quantization;  // the type that holds most of the weights: "Q4_1"
};

// What is known without touching the weights. `path` is a .gguf file, or a folder that holds
// model.safetensors, config.json and tokenizer.json.
Result<ModelInfo> probe_model(const std::filesystem::path& path);

// How a causal model's keys and values lie in blocks.
inline KvLayout kv_layout(const ModelInfo& model, std::uint32_t block_tokens, KvType type) {
  return KvLayout{.layers = model.layers,
                  .kv_heads = model.kv_heads,
                  .head_dim = model.head_dim,
                  .block_tokens = block_tokens,
                  .type = type}
      .with_window(model.window, model.window_pattern);
}

// A model's text side, without its weights: what a gateway needs.
struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::string chat_template;  // Jinja source; empty if the model has none
};
Result<ModelText> load_model_text(const std::filesystem::path& path);

// The caps that buffers are sized by; all memory for a step is taken at load time.
struct StepLimits {
  std::uint32_t tokens = 512;           // in one step, over all sequences
  std::uint32_t sequences = 64;         // in one step
  std::uint32_t logit_rows = 64;        // in one step
  std::uint32_t context_tokens = 8192;  // of one sequence
};

// What a model takes beside its KV, told before it is loaded.
struct ModelMemory {
  std::uint64_t mapped_bytes = 0;  // its file and the packed copy: the kernel can take them back
  std::uint64_t weight_bytes = 0;  // what is expanded of its weights
  // What its steps compute in.
  std::function<std::uint64_t(const StepLimits&, int threads)> activation_bytes;
};
Result<ModelMemory> model_memory(const std::filesystem::path& path, ComputeMode compute);

struct LoadOptions {
  std::string model_version;  // the name that the ledger and metrics use
  ComputeMode compute = ComputeMode::automatic;
  std::filesystem::path cache_directory;  // for packed weights; empty: beside the model file
  StepLimits limits;
  Ledger* ledger = nullptr;    // required; outlives the model
  ThreadPool* pool = nullptr;  // required; outlives the model
  Progress progress;           // called while weights are packed
};

// One sequence's part of a step: `tokens` at positions start_position.. ; their keys and values
// are written to `blocks`, a block table that already has room. Logits are made for the last
// `logit_rows` tokens.
struct SequenceChunk {
  std::span<const TokenId> tokens;
  std::uint32_t start_position = 0;
  std::span<const BlockId> blocks;
  std::uint32_t logit_rows = 0;
};

class CausalModel {
 public:
  virtual ~CausalModel() = default;
  virtual const ModelInfo& info() const = 0;

  // One forward pass over all chunks, within the StepLimits (asserted). logits is
  // [sum of logit_rows, vocab], chunk by chunk. Allocates nothing. Not thread-safe.
  virtual void forward(std::span<const SequenceChunk> chunks, BlockPool& kv, float* logits) = 0;
};

class EmbeddingModel {
 public:
  virtual ~EmbeddingModel() = default;
  virtual const ModelInfo& info() const = 0;
  // out is [batch, hidden], each row pooled as the model's folder says and scaled to length 1.
  // Each input has 1..context_tokens tokens, at most StepLimits::tokens in all. Not thread-safe.
  virtual void embed(std::span<const std::span<const TokenId>> batch, float* out) = 0;
};

Result<std::unique_ptr<CausalModel>> load_causal_model(const std::filesystem::path& path,
                                                       const LoadOptions& options);
Result<std::unique_ptr<EmbeddingModel>> load_embedding_model(const std::filesystem::path& path,
                                                             const LoadOptions& options);

}  // namespace plimsoll
