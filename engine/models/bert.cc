#include "engine/models/bert.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cmath>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/formats/safetensors.h"
#include "engine/kernels/cpu/attention.h"
#include "engine/kernels/cpu/ops.h"
#include "engine/memory/arena.h"
#include "engine/models/hyper_parameters.h"
#include "engine/models/model_folder.h"
#include "engine/models/step_memory.h"
#include "engine/models/weights.h"
#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

// What one thread takes through the model alone: as many tokens as stay in its cache, and no fewer
// than make reading all weights worth it.
constexpr std::size_t most_tokens_alone = 64, least_tokens_alone = 32;

enum class Pooling : std::uint8_t { mean, first_token };

struct BertConfig {
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t ffn = 0;
  std::uint32_t vocab = 0;
  std::uint32_t positions = 0;
  std::uint32_t token_types = 0;
  std::uint32_t context_tokens = 0;  // what sentence-transformers cuts texts to
  float norm_epsilon = 0.0F;
  Pooling pooling = Pooling::mean;
};

struct BertNorm {
  const float* weight = nullptr;  // [hidden]
  const float* bias = nullptr;
};

struct BertLinear {
  WeightMatrix weight;          // [out, in]
  const float* bias = nullptr;  // [out]
};

struct BertLayer {
  BertLinear q, k, v, attention_output;  // [hidden, hidden]
  BertNorm attention_norm;
  BertLinear up;    // [ffn, hidden]
  BertLinear down;  // [hidden, ffn]
  BertNorm ffn_norm;
};

struct BertWeights {
  WeightMatrix words;      // [vocab, hidden]
  WeightMatrix positions;  // [positions, hidden]
  WeightMatrix types;      // [token_types, hidden]
  BertNorm embedding_norm;
  std::vector<BertLayer> layers;

  // All that are multiplied with.
  std::vector<WeightMatrix*> products() {
    std::vector<WeightMatrix*> all;
    for (BertLayer& l : layers) {
      for (BertLinear* w : {&l.q, &l.k, &l.v, &l.attention_output, &l.up, &l.down}) {
        all.push_back(&w->weight);
      }
    }
    return all;
  }
};

Result<Pooling> read_pooling(const std::filesystem::path& folder) {
  const auto path = folder / "1_Pooling" / "config.json";
  if (!std::filesystem::exists(path)) return Pooling::mean;  // sentence-transformers' default
  auto json = read_json_object(path);
  if (!json) return fail(std::move(json.error()));
  std::vector<std::string> modes;
  for (const auto& [key, value] : json->items()) {
    if (key.starts_with("pooling_mode_") && value == true) modes.push_back(key);
  }
  if (modes.size() == 1 && modes[0] == "pooling_mode_mean_tokens") return Pooling::mean;
  if (modes.size() == 1 && modes[0] == "pooling_mode_cls_token") return Pooling::first_token;
  return fail(ErrorCode::unsupported,
              path.string() + ": handled is pooling by mean tokens or by the CLS token alone");
}

Result<BertConfig> read_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  auto json = read_json_object(path);
  if (!json) return fail(std::move(json.error()));
  HyperParameters p(*json, path.string());
  const std::string type = p.text("model_type").value_or("missing");
  if (type != "bert") {
    p.reject(ErrorCode::unsupported, "model_type '" + type + "'; of folders, bert is handled");
  }
  BertConfig c;
  c.layers = p.count("num_hidden_layers", 1024);
  c.hidden = p.count("hidden_size", 1 << 17);
  c.heads = p.count("num_attention_heads", 1024);
  c.ffn = p.count("intermediate_size", 1 << 20);
  c.vocab = p.count("vocab_size", 1 << 24);
  c.positions = p.count("max_position_embeddings", 1 << 20);
  c.token_types = p.count("type_vocab_size", 1024);
  c.norm_epsilon = p.number("layer_norm_eps", 0, 1);
  if (c.hidden % c.heads != 0 || c.hidden / c.heads > max_head_dim) {
    p.reject(ErrorCode::malformed, std::to_string(c.hidden) + " dimensions cannot be split into " +
                                       std::to_string(c.heads) + " heads of at most " +
                                       std::to_string(max_head_dim));
  }
  if (p.text("hidden_act").value_or("gelu") != "gelu") {
    p.reject(ErrorCode::unsupported, "hidden_act '" + *p.text("hidden_act") + "'; handled is gelu");
  }
  if (p.text("position_embedding_type").value_or("absolute") != "absolute") {
    p.reject(ErrorCode::unsupported, "position embeddings that are not absolute");
  }
  if (p.error()) return fail(*p.error());

  c.context_tokens = c.positions;
  const auto sentence = folder / "sentence_bert_config.json";
  if (std::filesystem::exists(sentence)) {
    auto limits = read_json_object(sentence);
    if (!limits) return fail(std::move(limits.error()));
    HyperParameters l(*limits, sentence.string());
    c.context_tokens = l.count("max_seq_length", c.positions, c.positions);
    if (l.error()) return fail(*l.error());
  }
  auto pooling = read_pooling(folder);
  if (!pooling) return fail(std::move(pooling.error()));
  c.pooling = *pooling;
  return c;
}

ModelInfo bert_info(const std::filesystem::path& folder, const BertConfig& c,
                    const SafetensorsFile& file) {
  const WeightSummary summary = summarize_weights(file.tensors());
  const auto name = folder.has_filename() ? folder.filename() : folder.parent_path().filename();
  return ModelInfo{.kind = ModelKind::embedding,
                   .architecture = "bert",
                   .name = name.string(),
                   .layers = c.layers,
                   .hidden = c.hidden,
                   .heads = c.heads,
                   .kv_heads = c.heads,
                   .head_dim = c.hidden / c.heads,
                   .vocab = c.vocab,
                   .context_tokens = c.context_tokens,
                   .parameters = summary.parameters,
                   .file_bytes = file.file().size(),
                   .quantization = std::string(info(summary.main_type).name)};
}

// Names as in Hugging Face's BertModel; a checkpoint of a task head puts "bert." before them.
Result<BertWeights> bind(const BertConfig& c, Weights& weights) {
  const std::string root = weights.has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  const auto norm = [&](const std::string& name) {
    return BertNorm{weights.vector(root + name + ".weight", c.hidden),
                    weights.vector(root + name + ".bias", c.hidden)};
  };
  const auto linear = [&](const std::string& name, std::uint64_t rows, std::uint64_t cols) {
    return BertLinear{weights.matrix(root + name + ".weight", rows, cols),
                      weights.vector(root + name + ".bias", rows)};
  };
  const std::string e = root + "embeddings.";
  BertWeights w;
  w.words = weights.matrix(e + "word_embeddings.weight", c.vocab, c.hidden);
  w.positions = weights.matrix(e + "position_embeddings.weight", c.positions, c.hidden);
  w.types = weights.matrix(e + "token_type_embeddings.weight", c.token_types, c.hidden);
  w.embedding_norm = norm("embeddings.LayerNorm");
  for (std::uint32_t i = 0; i < c.layers && !weights.error(); ++i) {
    const std::string p = "encoder.layer." + std::to_string(i) + ".";
    w.layers.push_back(
        {.q = linear(p + "attention.self.query", c.hidden, c.hidden),
         .k = linear(p + "attention.self.key", c.hidden, c.hidden),
         .v = linear(p + "attention.self.value", c.hidden, c.hidden),
         .attention_output = linear(p + "attention.output.dense", c.hidden, c.hidden),
         .attention_norm = norm(p + "attention.output.LayerNorm"),
         .up = linear(p + "intermediate.dense", c.ffn, c.hidden),
         .down = linear(p + "output.dense", c.hidden, c.ffn),
         .ffn_norm = norm(p + "output.LayerNorm")});
  }
  weights.reject_unused({"embeddings.position_ids", "bert.embeddings.position_ids",
                         "pooler.dense.weight", "pooler.dense.bias", "bert.pooler.dense.weight",
                         "bert.pooler.dense.bias"});
  if (weights.error()) return fail(*weights.error());
  return w;
}

class Bert final : public EmbeddingModel {
 public:
  Bert(BertConfig config, ModelInfo info, Weights weights, BertWeights bound,
       const LoadOptions& options)
      : config_(config),
        info_(std::move(info)),
        weights_(std::move(weights)),
        w_(std::move(bound)),
        limits_(options.limits),
        pool_(*options.pool) {}

  const ModelInfo& info() const override { return info_; }
  void embed(std::span<const std::span<const TokenId>> batch, float* out) override;

  static std::uint64_t required_bytes(const BertConfig& config, const StepLimits& limits,
                                      int threads, bool quantized) {
    const Sizes sizes{limits, threads, quantized};
    return step_bytes([&](auto& counter) { lay_out(counter, config, sizes); });
  }

  // Takes what embed() computes in.
  Result<void> take_memory(const LoadOptions& options) {
    const Sizes sizes{options.limits, pool_.threads(), options.compute == ComputeMode::int8};
    const auto lay_out_in = [&](auto& memory) { return lay_out(memory, config_, sizes); };
    auto arena = make_step_memory(options, lay_out_in);
    if (!arena) return fail(std::move(arena.error()));
    arena_ = std::move(*arena);
    b_ = lay_out_in(arena_);
    return {};
  }

 private:
  // The first dimension of each is the tokens of all inputs.
  struct Buffers {
    std::span<float> x;         // [hidden]
    std::span<float> q, k, v;   // [hidden] = [heads, head_dim]
    std::span<float> attended;  // [hidden]
    std::span<float> branch;    // [hidden]
    std::span<float> ffn;       // [ffn]
    std::span<float> position;  // [hidden], a row for each thread
    std::span<float> attention_scratch;
    std::span<std::byte> quantized;
  };
  struct Sizes {
    StepLimits limits;
    int threads = 1;
    bool quantized = false;  // the activations are
  };
  // Of a token: so many that a part can begin with any.
  static std::size_t quantized_bytes(const BertConfig& config) {
    const std::size_t cols = std::max(config.hidden, config.ffn);
    return (QuantizedActivations::bytes(1, cols, true) + 63) / 64 * 64;
  }
  template <class Memory>
  static Buffers lay_out(Memory& memory, const BertConfig& config, const Sizes& sizes) {
    const std::size_t tokens = sizes.limits.tokens;
    const std::size_t hidden = config.hidden;
    const std::size_t threads = sizes.threads;
    Buffers b;
    b.x = memory.template take<float>(tokens * hidden);
    b.q = memory.template take<float>(tokens * hidden);
    b.k = memory.template take<float>(tokens * hidden);
    b.v = memory.template take<float>(tokens * hidden);
    b.attended = memory.template take<float>(tokens * hidden);
    b.branch = memory.template take<float>(tokens * hidden);
    b.ffn = memory.template take<float>(tokens * config.ffn);
    b.position = memory.template take<float>(threads * hidden);
    b.attention_scratch =
        memory.template take<float>(threads * attention_scratch_floats(attention_shape(config)));
    const std::size_t quantized = sizes.quantized ? tokens * quantized_bytes(config) : 0;
    b.quantized = memory.template take<std::byte>(quantized);
    return b;
  }

  static AttentionShape attention_shape(const BertConfig& config) {
    const std::uint32_t head_dim = config.hidden / config.heads;
    return {.heads = config.heads,
            .kv_heads = config.heads,
            .head_dim = head_dim,
            .scale = 1.0F / std::sqrt(static_cast<float>(head_dim))};
  }

  // Inputs of a step that go through all layers together.
  struct Part {
    std::span<const std::span<const TokenId>> inputs;
    std::size_t tokens = 0;
    Buffers b;  // from the first of these tokens on
    ThreadPool& pool;
  };
  // Tokens of a part that one thread takes through the model alone; 0: all threads share one part.
  std::size_t tokens_alone(std::span<const std::span<const TokenId>> batch,
                           std::size_t tokens) const;
  Buffers buffers_from(std::size_t token, int rank) const;
  void run(const Part& part, float* out) const;
  void look_up(const Part& part) const;
  void run_layer(const BertLayer& w, const BertLayer* next, const Part& part) const;
  void pool(const float* x, std::size_t tokens, float* out) const;

  // f(t) for every token of the part.
  template <class F>
  static void each_token(const Part& part, const F& f) {
    part.pool.parallel_for(part.tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
      for (std::size_t t = begin; t < end; ++t) f(t);
    });
  }
  // Short texts have little to average out what 8 bits lose: every block has an offset.
  static QuantizedActivations quantized(const Part& part, std::size_t cols);
  // Token t of what `w` is multiplied with next, where its weights are quantized.
  void quantize(const BertLinear& w, std::span<const float> in, std::size_t t,
                const Part& part) const;
  struct Out {
    const BertLinear* w;
    float* y;  // y[t] = in[t] W^T + b
  };
  // Every token of `in` was given to quantize() before.
  void multiply(std::initializer_list<Out> outs, std::span<const float> in, const Part& part) const;
  // x = LayerNorm(x + branch), which `next`, unless null, is multiplied with.
  void add_and_norm(const BertNorm& norm, const BertLinear* next, const Part& part) const;

  BertConfig config_;
  ModelInfo info_;
  Weights weights_;
  BertWeights w_;
  StepLimits limits_;
  ThreadPool& pool_;
  ThreadPool caller_{1};  // for threads that work alone
  Arena arena_;
  Buffers b_;
};

// Threads that take whole inputs wait for each other once a step, not eight times a layer, and what
// is passed from layer to layer stays in a core's own cache. It takes enough inputs for all to end
// at about the same time, and packed weights: float32's are transposed for each part anew.
std::size_t Bert::tokens_alone(std::span<const std::span<const TokenId>> batch,
                               std::size_t tokens) const {
  if (w_.layers.front().q.weight.packed.empty()) return 0;
  const auto threads = static_cast<std::size_t>(pool_.threads());
  const std::size_t share = tokens / threads;
  std::size_t longest = 0;
  for (const auto& input : batch) longest = std::max(longest, input.size());
  if (threads > 1 && (share < least_tokens_alone || longest * 4 > share)) return 0;
  const std::size_t parts = (share + most_tokens_alone - 1) / most_tokens_alone * threads;
  return (tokens + parts - 1) / parts;
}

Bert::Buffers Bert::buffers_from(std::size_t token, int rank) const {
  const std::size_t n = config_.hidden;
  const std::size_t scratch = b_.attention_scratch.size() / pool_.threads();
  Buffers b = b_;
  for (std::span<float>* rows : {&b.x, &b.q, &b.k, &b.v, &b.attended, &b.branch}) {
    *rows = rows->subspan(token * n);
  }
  b.ffn = b.ffn.subspan(token * config_.ffn);
  b.position = b.position.subspan(rank * n, n);
  b.attention_scratch = b.attention_scratch.subspan(rank * scratch, scratch);
  if (!b.quantized.empty()) b.quantized = b.quantized.subspan(token * quantized_bytes(config_));
  return b;
}

void Bert::embed(std::span<const std::span<const TokenId>> batch, float* out) {
  std::size_t tokens = 0;
  for (const auto& input : batch) {
    assert(!input.empty() && input.size() <= config_.context_tokens);
    tokens += input.size();
  }
  assert(tokens <= limits_.tokens);
  const std::size_t alone = tokens_alone(batch, tokens);
  if (alone == 0) return run({batch, tokens, b_, pool_}, out);
  std::atomic<std::size_t> next{0};
  pool_.run([&](int rank) {
    for (;;) {
      const std::size_t begin = next.fetch_add(alone, std::memory_order_relaxed);
      if (begin >= tokens) return;
      // The inputs of which the first token is in [begin, begin + alone).
      std::size_t token = 0, input = 0;
      while (input < batch.size() && token < begin) token += batch[input++].size();
      const std::size_t first = token, first_input = input;
      while (input < batch.size() && token < begin + alone) token += batch[input++].size();
      if (input == first_input) continue;
      run({batch.subspan(first_input, input - first_input), token - first,
           buffers_from(first, rank), caller_},
          out + first_input * config_.hidden);
    }
  });
}

void Bert::run(const Part& part, float* out) const {
  look_up(part);
  for (std::size_t i = 0; i < w_.layers.size(); ++i) {
    run_layer(w_.layers[i], i + 1 < w_.layers.size() ? &w_.layers[i + 1] : nullptr, part);
  }
  const float* x = part.b.x.data();
  for (const auto& input : part.inputs) {
    pool(x, input.size(), out);
    x += input.size() * config_.hidden;
    out += config_.hidden;
  }
}

// x = LayerNorm(word + position + type 0)
void Bert::look_up(const Part& part) const {
  const std::size_t n = config_.hidden;
  std::size_t first = 0;
  for (const auto& input : part.inputs) {
    part.pool.parallel_for(
        input.size(), token_grain, [&](std::size_t begin, std::size_t end, int rank) {
          float* const other = &part.b.position[static_cast<std::size_t>(rank) * n];
          for (std::size_t t = begin; t < end; ++t) {
            const TokenId id = input[t];
            assert(id >= 0 && static_cast<std::uint32_t>(id) < config_.vocab);
            float* const x = &part.b.x[(first + t) * n];
            dequantize_row(w_.words.source, static_cast<std::uint64_t>(id), x);
            dequantize_row(w_.types.source, 0, other);
            add(x, other, n, x);
            dequantize_row(w_.positions.source, t, other);
            add(x, other, n, x);
            layer_norm(x, w_.embedding_norm.weight, w_.embedding_norm.bias, config_.norm_epsilon, n,
                       x);
            quantize(w_.layers.front().q, part.b.x, first + t, part);
          }
        });
    first += input.size();
  }
}

void Bert::run_layer(const BertLayer& w, const BertLayer* next, const Part& part) const {
  const std::size_t n = config_.hidden;
  const Buffers& b = part.b;
  multiply({{&w.q, b.q.data()}, {&w.k, b.k.data()}, {&w.v, b.v.data()}}, b.x, part);
  const AttentionShape shape = attention_shape(config_);
  std::size_t first = 0;
  for (const auto& input : part.inputs) {
    attention_bidirectional(shape, &b.q[first * n], &b.k[first * n], &b.v[first * n],
                            &b.attended[first * n], static_cast<std::uint32_t>(input.size()), n, n,
                            b.attention_scratch, part.pool);
    first += input.size();
  }
  each_token(part, [&](std::size_t t) { quantize(w.attention_output, b.attended, t, part); });
  multiply({{&w.attention_output, b.branch.data()}}, b.attended, part);
  add_and_norm(w.attention_norm, &w.up, part);

  multiply({{&w.up, b.ffn.data()}}, b.x, part);
  each_token(part, [&](std::size_t t) {
    float* const h = &b.ffn[t * config_.ffn];
    gelu_erf(h, config_.ffn, h);
    quantize(w.down, b.ffn, t, part);
  });
  multiply({{&w.down, b.branch.data()}}, b.ffn, part);
  add_and_norm(w.ffn_norm, next != nullptr ? &next->q : nullptr, part);
}

void Bert::pool(const float* x, std::size_t tokens, float* out) const {
  const std::size_t n = config_.hidden;
  std::copy_n(x, n, out);
  if (config_.pooling == Pooling::mean) {
    for (std::size_t t = 1; t < tokens; ++t) add(out, x + t * n, n, out);
  }
  // Scaling to length 1 takes the mean's division with it.
  const float length = std::sqrt(dot(out, out, n));
  if (length > 0) scale(out, 1.0F / length, n, out);
}

QuantizedActivations Bert::quantized(const Part& part, std::size_t cols) {
  return QuantizedActivations::in(part.b.quantized.data(), part.tokens, cols, true);
}

void Bert::quantize(const BertLinear& w, std::span<const float> in, std::size_t t,
                    const Part& part) const {
  if (!w.weight.packed.quantized()) return;
  const std::size_t cols = w.weight.cols();
  quantize_tokens(in.data(), cols, part.tokens, cols, t, t + 1, quantized(part, cols), nullptr);
}

void Bert::multiply(std::initializer_list<Out> outs, std::span<const float> in,
                    const Part& part) const {
  const std::size_t cols = outs.begin()->w->weight.cols();
  std::array<Product, 3> products;
  std::size_t n = 0;
  for (const auto& [w, y] : outs) {
    products.at(n++) = {.w = &w->weight, .y = y, .ldy = w->weight.rows(), .bias = w->bias};
  }
  const QuantizedActivations x =
      part.b.quantized.empty() ? QuantizedActivations{} : quantized(part, cols);
  matmul(std::span(products).first(n), in.data(), cols, x, part.tokens, part.pool);
}

void Bert::add_and_norm(const BertNorm& norm, const BertLinear* next, const Part& part) const {
  const std::size_t n = config_.hidden;
  each_token(part, [&](std::size_t t) {
    float* const x = &part.b.x[t * n];
    add(x, &part.b.branch[t * n], n, x);
    layer_norm(x, norm.weight, norm.bias, config_.norm_epsilon, n, x);
    if (next != nullptr) quantize(*next, part.b.x, t, part);
  });
}

// bfloat16 moves a vector by a twentieth of what 8 bits do, at half the bytes of float32.
ComputeMode resolved(ComputeMode compute) {
  return compute == ComputeMode::automatic ? ComputeMode::bf16 : compute;
}

}  // namespace

Result<ModelInfo> probe_bert(const std::filesystem::path& folder) {
  auto config = read_config(folder);
  if (!config) return fail(std::move(config.error()));
  auto file = SafetensorsFile::open(folder / "model.safetensors");
  if (!file) return fail(std::move(file.error()));
  return bert_info(folder, *config, *file);
}

Result<ModelMemory> bert_memory(const std::filesystem::path& folder, ComputeMode compute) {
  compute = resolved(compute);
  auto config = read_config(folder);
  if (!config) return fail(std::move(config.error()));
  auto file = SafetensorsFile::open(folder / "model.safetensors");
  if (!file) return fail(std::move(file.error()));
  std::vector<TensorView> tensors = file->tensors();
  Ledger ledger;
  LoadOptions options;
  options.ledger = &ledger;
  Weights weights(std::move(*file).take_file(), std::move(tensors), options);
  auto bound = bind(*config, weights);
  if (!bound) return fail(std::move(bound.error()));
  ModelMemory memory;
  memory.mapped_bytes = static_cast<std::uint64_t>(ledger.total_bytes(MemoryKind::mapped)) +
                        weights.packed_bytes(bound->products(), compute);
  memory.weight_bytes = static_cast<std::uint64_t>(ledger.total_bytes(MemoryKind::anonymous));
  memory.activation_bytes = [config = *config, quantized = compute == ComputeMode::int8](
                                const StepLimits& limits, int threads) {
    return Bert::required_bytes(config, limits, threads, quantized);
  };
  return memory;
}

Result<std::unique_ptr<EmbeddingModel>> load_bert(const std::filesystem::path& folder,
                                                  LoadOptions options) {
  options.compute = resolved(options.compute);
  auto config = read_config(folder);
  if (!config) return fail(std::move(config.error()));
  auto file = SafetensorsFile::open(folder / "model.safetensors");
  if (!file) return fail(std::move(file.error()));
  ModelInfo info = bert_info(folder, *config, *file);
  std::vector<TensorView> tensors = file->tensors();
  Weights weights(std::move(*file).take_file(), std::move(tensors), options);
  auto bound = bind(*config, weights);
  if (!bound) return fail(std::move(bound.error()));
  if (auto prepared = weights.prepare(bound->products(), options); !prepared) {
    return fail(std::move(prepared.error()));
  }
  auto model = std::make_unique<Bert>(*config, std::move(info), std::move(weights),
                                      std::move(*bound), options);
  if (auto taken = model->take_memory(options); !taken) return fail(std::move(taken.error()));
  return model;
}

}  // namespace plimsoll
