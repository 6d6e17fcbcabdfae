#include "engine/models/decoder.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <memory>
#include <utility>

#include "engine/kernels/cpu/ops.h"
#include "engine/models/step_memory.h"
#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

AttentionShape attention_shape(const DecoderConfig& c, bool local) {
  return {.heads = c.heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .scale = c.attention_scale,
          .softcap = c.attention_softcap,
          .window = local ? c.window : 0};
}

}  // namespace

Decoder::Decoder(DecoderConfig config, ModelInfo info, Weights weights, DecoderWeights bound,
                 const LoadOptions& options)
    : config_(std::move(config)),
      info_(std::move(info)),
      weights_(std::move(weights)),
      w_(std::move(bound)),
      limits_(options.limits),
      pool_(*options.pool) {
  const KvLayout layout = kv_layout(info_, 16, KvType::f16);
  std::uint32_t full = 0, windowed = layout.full_groups * layout.layers;
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    const bool behind = layout.windowed_groups > 0 && config_.is_local(layer);
    const std::uint32_t n = behind ? windowed++ : full++;
    kv_places_.push_back({n / layout.layers, n % layout.layers});
  }
}

Result<std::unique_ptr<CausalModel>> Decoder::load(GgufFile file, const LoadOptions& options) {
  auto config = read_decoder_config(file);
  if (!config) return fail(std::move(config.error()));
  ModelInfo info = decoder_info(file, *config);
  // The index of the file (its vocabulary, above all) is of no more use; the mapping is.
  std::vector<TensorView> tensors = file.tensors();
  Weights weights(std::move(file).take_file(), std::move(tensors), options);
  auto bound = bind_decoder_weights(*config, weights);
  if (!bound) return fail(std::move(bound.error()));
  if (auto prepared = weights.prepare(bound->products(), options); !prepared) {
    return fail(std::move(prepared.error()));
  }

  std::unique_ptr<Decoder> model(new Decoder(std::move(*config), std::move(info),
                                             std::move(weights), std::move(*bound), options));
  const Sizes sizes{options.limits, options.pool->threads(),
                    model->weights_.packs(options.compute)};
  const auto lay_out_in = [&](auto& memory) { return lay_out(memory, model->config_, sizes); };
  auto arena = make_step_memory(options, lay_out_in);
  if (!arena) return fail(std::move(arena.error()));
  model->arena_ = std::move(*arena);
  model->b_ = lay_out_in(model->arena_);
  std::uninitialized_value_construct(model->b_.sequences.begin(), model->b_.sequences.end());
  return model;
}

Result<ModelMemory> Decoder::memory(GgufFile file, ComputeMode compute) {
  auto config = read_decoder_config(file);
  if (!config) return fail(std::move(config.error()));
  std::vector<TensorView> tensors = file.tensors();
  Ledger ledger;
  LoadOptions options;
  options.ledger = &ledger;
  Weights weights(std::move(file).take_file(), std::move(tensors), options);
  auto bound = bind_decoder_weights(*config, weights);
  if (!bound) return fail(std::move(bound.error()));
  ModelMemory memory;
  memory.mapped_bytes = static_cast<std::uint64_t>(ledger.total_bytes(MemoryKind::mapped)) +
                        weights.packed_bytes(bound->products(), compute);
  memory.weight_bytes = static_cast<std::uint64_t>(ledger.total_bytes(MemoryKind::anonymous));
  memory.activation_bytes = [config = std::move(*config), packed = weights.packs(compute)](
                                const StepLimits& limits, int threads) {
    const Sizes sizes{limits, threads, packed};
    return step_bytes([&](auto& counter) { lay_out(counter, config, sizes); });
  };
  return memory;
}

template <class Memory>
Decoder::Buffers Decoder::lay_out(Memory& memory, const DecoderConfig& c, const Sizes& sizes) {
  const std::size_t tokens = sizes.limits.tokens;
  const std::size_t q_width = std::size_t{c.heads} * c.head_dim;
  const std::size_t kv_width = std::size_t{c.kv_heads} * c.head_dim;
  const std::size_t widest = std::max({std::size_t{c.hidden}, q_width, std::size_t{c.ffn}});
  const std::size_t table = tokens * (c.head_dim / 2);
  const std::size_t local_table = c.window > 0 ? table : 0;
  Buffers b;
  b.places = memory.template take<Place>(tokens);
  b.sequences = memory.template take<AttentionSequence>(sizes.limits.sequences);
  b.x = memory.template take<float>(tokens * c.hidden);
  b.normed = memory.template take<float>(tokens * c.hidden);
  b.branch = memory.template take<float>(tokens * c.hidden);
  b.q = memory.template take<float>(tokens * q_width);
  b.k = memory.template take<float>(tokens * kv_width);
  b.v = memory.template take<float>(tokens * kv_width);
  b.attended = memory.template take<float>(tokens * q_width);
  b.gate = memory.template take<float>(tokens * c.ffn);
  b.up = memory.template take<float>(tokens * c.ffn);
  b.cos = memory.template take<float>(table);
  b.sin = memory.template take<float>(table);
  b.local_cos = memory.template take<float>(local_table);
  b.local_sin = memory.template take<float>(local_table);
  b.attention_scratch = memory.template take<float>(
      sizes.threads * attention_scratch_floats(attention_shape(c, false)));
  b.quantized = memory.template take<std::byte>(
      sizes.packed ? QuantizedActivations::bytes(tokens, widest) : 0);
  b.rest = memory.template take<std::byte>(
      sizes.packed ? QuantizedActivations::bytes(tokens, c.hidden) : 0);
  return b;
}

void Decoder::forward(std::span<const SequenceChunk> chunks, BlockPool& kv, float* logits) {
  const std::size_t tokens = place(chunks);
  embed(tokens);
  make_rope_tables(tokens);
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    attend(layer, chunks, tokens, kv);
    feed_forward(w_.layers[layer], tokens);
  }
  write_logits(chunks, logits);
}

// Lays the chunks' tokens side by side, and returns how many there are.
std::size_t Decoder::place(std::span<const SequenceChunk> chunks) {
  assert(chunks.size() <= limits_.sequences);
  std::size_t tokens = 0;
  std::size_t logit_rows = 0;
  const std::size_t q_width = std::size_t{config_.heads} * config_.head_dim;
  for (std::uint32_t c = 0; c < chunks.size(); ++c) {
    const SequenceChunk& chunk = chunks[c];
    assert(tokens + chunk.tokens.size() <= limits_.tokens);
    assert(chunk.start_position + chunk.tokens.size() <= limits_.context_tokens);
    assert(chunk.logit_rows <= chunk.tokens.size());
    b_.sequences[c] = {.q = b_.q.data() + tokens * q_width,
                       .out = b_.attended.data() + tokens * q_width,
                       .tokens = static_cast<std::uint32_t>(chunk.tokens.size()),
                       .start_position = chunk.start_position,
                       .blocks = {}};  // each layer's own
    for (std::uint32_t i = 0; i < chunk.tokens.size(); ++i) {
      const TokenId id = chunk.tokens[i];
      assert(id >= 0 && static_cast<std::uint32_t>(id) < config_.vocab);
      b_.places[tokens++] = {.id = id, .chunk = c, .position = chunk.start_position + i};
    }
    logit_rows += chunk.logit_rows;
  }
  assert(logit_rows <= limits_.logit_rows);
  return tokens;
}

void Decoder::embed(std::size_t tokens) {
  const std::size_t hidden = config_.hidden;
  pool_.parallel_for(tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t t = begin; t < end; ++t) {
      float* const x = &b_.x[t * hidden];
      dequantize_row(w_.embedding.source, static_cast<std::uint64_t>(b_.places[t].id), x);
      if (config_.embedding_scale != 1.0F) scale(x, config_.embedding_scale, hidden, x);
    }
  });
}

void Decoder::make_rope_tables(std::size_t tokens) {
  const DecoderConfig& c = config_;
  const std::size_t half = c.head_dim / 2;
  pool_.parallel_for(tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t t = begin; t < end; ++t) {
      const std::uint32_t position = b_.places[t].position;
      rope_table(position, c.head_dim, c.rope.base, c.rope.position_scale, w_.rope_factors,
                 &b_.cos[t * half], &b_.sin[t * half]);
      if (c.window == 0) continue;
      rope_table(position, c.head_dim, c.local_rope.base, c.local_rope.position_scale, {},
                 &b_.local_cos[t * half], &b_.local_sin[t * half]);
    }
  });
}

// x += Attention(norm(x)) W_o
void Decoder::attend(std::uint32_t layer, std::span<const SequenceChunk> chunks, std::size_t tokens,
                     BlockPool& kv) {
  const DecoderConfig& c = config_;
  const DecoderLayer& w = w_.layers[layer];
  const bool local = c.is_local(layer);
  const std::uint32_t kv_layer = kv_places_[layer].layer;
  const std::size_t q_width = std::size_t{c.heads} * c.head_dim;
  const std::size_t kv_width = std::size_t{c.kv_heads} * c.head_dim;
  const std::size_t half = c.head_dim / 2;

  // V's errors go straight into the residual stream: it is given what 8 bits lost of its input,
  // too. (GGUF's mixed types spend more bits on V as well.)
  QuantizedActivations rest;
  const QuantizedActivations* v_rest = nullptr;
  if (w.v.packed.quantized()) {
    rest = QuantizedActivations::in(b_.rest.data(), tokens, c.hidden);
    v_rest = &rest;
  }
  norm_rows(b_.x.data(), w.attention_norm, tokens, w.q, b_.normed.data(), v_rest);
  const Product products[] = {{&w.q, b_.q.data(), q_width},
                              {&w.k, b_.k.data(), kv_width},
                              {&w.v, b_.v.data(), kv_width, v_rest}};
  matmul(products, b_.normed.data(), c.hidden, quantized(w.q, tokens), tokens, pool_);

  const auto norm_heads = [&](float* x, std::size_t heads, const float* weight) {
    for (std::size_t h = 0; h < heads; ++h, x += c.head_dim) {
      rms_norm(x, weight, c.norm_epsilon, c.head_dim, x);
    }
  };
  const float* const cos = local ? b_.local_cos.data() : b_.cos.data();
  const float* const sin = local ? b_.local_sin.data() : b_.sin.data();
  pool_.parallel_for(tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t t = begin; t < end; ++t) {
      float* const q = &b_.q[t * q_width];
      float* const k = &b_.k[t * kv_width];
      float* const v = &b_.v[t * kv_width];
      if (w.q_bias != nullptr) {
        add(q, w.q_bias, q_width, q);
        add(k, w.k_bias, kv_width, k);
        add(v, w.v_bias, kv_width, v);
      }
      if (w.q_norm != nullptr) {
        norm_heads(q, c.heads, w.q_norm);
        norm_heads(k, c.kv_heads, w.k_norm);
      }
      rope(q, c.heads, c.head_dim, cos + t * half, sin + t * half, c.rope_style);
      rope(k, c.kv_heads, c.head_dim, cos + t * half, sin + t * half, c.rope_style);
      const Place& place = b_.places[t];
      write_kv(kv.layout(), kv.data(), kv_layer, table(chunks[place.chunk], layer), place.position,
               1, k, v, kv_width);
    }
  });

  for (std::size_t i = 0; i < chunks.size(); ++i) b_.sequences[i].blocks = table(chunks[i], layer);
  attention(attention_shape(c, local), kv.layout(), kv.data(), kv_layer,
            b_.sequences.first(chunks.size()), q_width, b_.attention_scratch, pool_);
  const QuantizedActivations attended = quantized(w.attention_output, tokens);
  if (w.attention_output.packed.quantized()) {
    quantize_activations(b_.attended.data(), q_width, tokens, q_width, attended, pool_);
  }
  const Product output{&w.attention_output, b_.branch.data(), c.hidden};
  matmul({&output, 1}, b_.attended.data(), q_width, attended, tokens, pool_);
  add_branch(w.post_attention_norm, tokens);
}

// x += (activation(norm(x) W_gate) * norm(x) W_up) W_down
void Decoder::feed_forward(const DecoderLayer& w, std::size_t tokens) {
  const std::size_t ffn = config_.ffn;
  norm_rows(b_.x.data(), w.ffn_norm, tokens, w.gate, b_.normed.data(), nullptr);
  const Product products[] = {{&w.gate, b_.gate.data(), ffn}, {&w.up, b_.up.data(), ffn}};
  matmul(products, b_.normed.data(), config_.hidden, quantized(w.gate, tokens), tokens, pool_);
  const auto activate = config_.activation == GatedActivation::silu ? silu_mul : gelu_tanh_mul;
  const QuantizedActivations activated = quantized(w.down, tokens);
  pool_.parallel_for(tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t t = begin; t < end; ++t) {
      float* const gate = &b_.gate[t * ffn];
      activate(gate, &b_.up[t * ffn], ffn, gate);
      if (!w.down.packed.quantized()) continue;
      quantize_tokens(b_.gate.data(), ffn, tokens, ffn, t, t + 1, activated, nullptr);
    }
  });
  const Product down{&w.down, b_.branch.data(), config_.hidden};
  matmul({&down, 1}, b_.gate.data(), ffn, activated, tokens, pool_);
  add_branch(w.post_ffn_norm, tokens);
}

// logits = norm(x) W_output, for the last rows of each chunk that asks for some.
void Decoder::write_logits(std::span<const SequenceChunk> chunks, float* logits) {
  const std::size_t hidden = config_.hidden;
  std::size_t rows = 0;
  std::size_t end = 0;  // of the chunk's tokens
  for (const SequenceChunk& chunk : chunks) {
    end += chunk.tokens.size();
    for (std::size_t t = end - chunk.logit_rows; t < end; ++t) {
      rms_norm(&b_.x[t * hidden], w_.output_norm, config_.norm_epsilon, hidden,
               &b_.normed[rows++ * hidden]);
    }
  }
  if (rows == 0) return;
  const QuantizedActivations normed = quantized(w_.output, rows);
  if (w_.output.packed.quantized()) {
    quantize_activations(b_.normed.data(), hidden, rows, hidden, normed, pool_);
  }
  const Product output{&w_.output, logits, config_.vocab};
  matmul({&output, 1}, b_.normed.data(), hidden, normed, rows, pool_);
  if (config_.final_softcap > 0) {
    pool_.parallel_for(rows, 1, [&](std::size_t begin, std::size_t stop, int) {
      soft_cap(logits + begin * config_.vocab, config_.final_softcap,
               (stop - begin) * config_.vocab);
    });
  }
}

void Decoder::norm_rows(const float* in, const float* weight, std::size_t tokens,
                        const WeightMatrix& w, float* out, const QuantizedActivations* rest) {
  const std::size_t n = config_.hidden;
  const QuantizedActivations q = quantized(w, tokens);
  pool_.parallel_for(tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t t = begin; t < end; ++t) {
      rms_norm(in + t * n, weight, config_.norm_epsilon, n, out + t * n);
      if (w.packed.quantized()) quantize_tokens(out, n, tokens, n, t, t + 1, q, rest);
    }
  });
}

void Decoder::add_branch(const float* post_norm, std::size_t tokens) {
  const std::size_t n = config_.hidden;
  pool_.parallel_for(tokens, token_grain, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t t = begin; t < end; ++t) {
      float* const branch = &b_.branch[t * n];
      if (post_norm != nullptr) rms_norm(branch, post_norm, config_.norm_epsilon, n, branch);
      add(&b_.x[t * n], branch, n, &b_.x[t * n]);
    }
  });
}

}  // namespace plimsoll
