#include "engine/models/decoder_config.h"

#include <cmath>

#include "engine/kernels/cpu/attention.h"
#include "engine/models/weights.h"

namespace plimsoll {
namespace {

// Far above any published model; they keep products of two in 64 bits and refuse nonsense early.
constexpr std::uint64_t most_layers = 1024;
constexpr std::uint64_t most_hidden = 1 << 17;
constexpr std::uint64_t most_heads = 1024;
constexpr std::uint64_t most_ffn = 1 << 20;
constexpr std::uint64_t most_vocab = 1 << 24;
constexpr std::uint64_t most_context = 1 << 28;

void read_shape(HyperParameters& p, const GgufFile& file, DecoderConfig& c) {
  c.layers = p.count("block_count", most_layers);
  c.hidden = p.count("embedding_length", most_hidden);
  c.heads = p.count("attention.head_count", most_heads);
  c.kv_heads = p.count("attention.head_count_kv", c.heads, c.heads);
  c.ffn = p.count("feed_forward_length", most_ffn);
  c.context_tokens = p.count("context_length", most_context);
  c.norm_epsilon = p.number("attention.layer_norm_rms_epsilon", 0, 1);
  if (c.heads % c.kv_heads != 0) {
    p.reject(ErrorCode::malformed, std::to_string(c.heads) + " heads cannot share " +
                                       std::to_string(c.kv_heads) + " KV heads evenly");
  }

  const std::uint32_t even_share = c.hidden / c.heads;
  c.head_dim = p.count("attention.key_length", max_head_dim, even_share);
  if (c.head_dim == even_share && c.hidden % c.heads != 0) {
    p.reject(ErrorCode::malformed, "embedding_length " + std::to_string(c.hidden) +
                                       " is no multiple of " + std::to_string(c.heads) + " heads");
  }
  if (c.head_dim == 0 || c.head_dim % 2 != 0 || c.head_dim > max_head_dim) {
    p.reject(ErrorCode::unsupported, "a head of " + std::to_string(c.head_dim) +
                                         " dimensions; handled are even numbers up to " +
                                         std::to_string(max_head_dim));
  }
  if (p.count("attention.value_length", max_head_dim, c.head_dim) != c.head_dim) {
    p.reject(ErrorCode::unsupported, "attention.value_length differs from the keys' length");
  }

  const TensorView* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->rank != 2 || embedding->rows() > most_vocab) {
    p.reject(ErrorCode::malformed, "tensor 'token_embd.weight' is missing or no [vocab, " +
                                       std::to_string(c.hidden) + "] matrix");
    return;
  }
  c.vocab = static_cast<std::uint32_t>(embedding->rows());
  // A token that the text side can make must have a row.
  const std::size_t tokens = file.strings("tokenizer.ggml.tokens").size();
  if (tokens > c.vocab) {
    p.reject(ErrorCode::malformed, "the tokenizer has " + std::to_string(tokens) +
                                       " tokens, but 'token_embd.weight' only " +
                                       std::to_string(c.vocab) + " rows");
  }
}

void read_rope(HyperParameters& p, DecoderConfig& c) {
  c.rope.base = p.number("rope.freq_base", 1, 1e12, 10000.0F);
  if (p.count("rope.dimension_count", max_head_dim, c.head_dim) != c.head_dim) {
    p.reject(ErrorCode::unsupported, "rope over a part of the head (rope.dimension_count)");
  }
  const std::string scaling = p.text("rope.scaling.type").value_or("none");
  if (scaling == "linear") {
    c.rope.position_scale = 1.0F / p.number("rope.scaling.factor", 1, 1e6, 1.0F);
  } else if (scaling != "none") {
    p.reject(ErrorCode::unsupported, "rope scaling '" + scaling + "'");
  }
}

}  // namespace

Result<DecoderConfig> read_decoder_config(const GgufFile& file) {
  DecoderConfig config;
  config.architecture = file.string("general.architecture").value_or("");
  const std::string& architecture = config.architecture;
  const bool gemma3 = architecture == "gemma3";
  if (!gemma3 && architecture != "llama" && architecture != "qwen2" && architecture != "qwen3") {
    return fail(ErrorCode::unsupported,
                file.file().path().string() + ": " +
                    (architecture.empty() ? "'general.architecture' is missing"
                                          : "architecture '" + architecture + "'") +
                    "; handled are llama (also Mistral and SmolLM), qwen2, qwen3 and gemma3");
  }
  HyperParameters parameters(file, architecture);
  read_shape(parameters, file, config);
  read_rope(parameters, config);
  config.attention_scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim));
  if (gemma3) {
    read_gemma3(parameters, config);
  } else {
    read_llama(parameters, file, config);
  }
  if (parameters.error()) return fail(*parameters.error());
  return config;
}

ModelInfo decoder_info(const GgufFile& file, const DecoderConfig& config) {
  const auto stem = file.file().path().stem().string();
  const WeightSummary summary = summarize_weights(file.tensors());
  return ModelInfo{.kind = ModelKind::causal,
                   .architecture = config.architecture,
                   .name = std::string(file.string("general.name").value_or(stem)),
                   .layers = config.layers,
                   .hidden = config.hidden,
                   .heads = config.heads,
                   .kv_heads = config.kv_heads,
                   .head_dim = config.head_dim,
                   .vocab = config.vocab,
                   .context_tokens = config.context_tokens,
                   .window = config.window,
                   .window_pattern = config.window_pattern,
                   .parameters = summary.parameters,
                   .file_bytes = file.file().size(),
                   .quantization = std::string(info(summary.main_type).name)};
}

}  // namespace plimsoll
