// The decoder-only transformer: one forward pass for every family.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/base/result.h"
#include "engine/formats/gguf.h"
#include "engine/kernels/cpu/attention.h"
#include "engine/memory/arena.h"
#include "engine/models/decoder_config.h"
#include "engine/models/decoder_weights.h"
#include "engine/models/model.h"
#include "engine/models/weights.h"

namespace plimsoll {

class Decoder final : public CausalModel {
 public:
  // Binds the weights, packs them if options.compute asks for it, and takes all memory that steps
  // need. Errors: of read_decoder_config, bind_decoder_weights, Weights::prepare and Arena::make.
  static Result<std::unique_ptr<CausalModel>> load(GgufFile file, const LoadOptions& options);

  // What load() will take. Errors: the same, less those of memory that is refused.
  static Result<ModelMemory> memory(GgufFile file, ComputeMode compute);

  const ModelInfo& info() const override { return info_; }
  void forward(std::span<const SequenceChunk> chunks, BlockPool& kv, float* logits) override;

 private:
  // Where a token of the step belongs.
  struct Place {
    TokenId id;
    std::uint32_t chunk;
    std::uint32_t position;
  };

  // Where a layer's keys and values are: in blocks of a group, as one of its layers.
  struct KvPlace {
    std::uint32_t group, layer;
  };

  // What a step computes in; the first dimension of each is the step's tokens.
  struct Buffers {
    std::span<Place> places;
    std::span<AttentionSequence> sequences;  // [sequences]
    std::span<float> x;                      // [hidden], the residual stream
    std::span<float> normed;                 // [hidden], what enters attention, FFN or output
    std::span<float> branch;                 // [hidden], what attention or FFN gives
    std::span<float> q;                      // [heads, head_dim]
    std::span<float> k, v;                   // [kv_heads, head_dim]
    std::span<float> attended;               // [heads, head_dim]
    std::span<float> gate, up;               // [ffn]
    std::span<float> cos, sin;               // [head_dim / 2]
    std::span<float> local_cos, local_sin;   // [head_dim / 2], where layers are local
    std::span<float> attention_scratch;      // for each thread
    std::span<std::byte> quantized;          // QuantizedActivations of the widest input
    std::span<std::byte> rest;               // what they lost of V's input
  };
  struct Sizes {
    StepLimits limits;
    int threads = 1;
    bool packed = false;  // there are quantized activations
  };
  // Takes all buffers from `memory`: an Arena, or what only counts.
  template <class Memory>
  static Buffers lay_out(Memory& memory, const DecoderConfig& config, const Sizes& sizes);

  Decoder(DecoderConfig config, ModelInfo info, Weights weights, DecoderWeights bound,
          const LoadOptions& options);

  std::size_t place(std::span<const SequenceChunk> chunks);
  void embed(std::size_t tokens);
  void make_rope_tables(std::size_t tokens);
  void attend(std::uint32_t layer, std::span<const SequenceChunk> chunks, std::size_t tokens,
              BlockPool& kv);
  // Of a chunk, from the layer's group on.
  std::span<const BlockId> table(const SequenceChunk& chunk, std::uint32_t layer) const {
    return chunk.blocks.subspan(kv_places_[layer].group);
  }
  void feed_forward(const DecoderLayer& layer, std::size_t tokens);
  void write_logits(std::span<const SequenceChunk> chunks, float* logits);

  // out[t] = norm(in[t]), quantized where the product with w needs it, with what that loses in
  // `rest` unless it is null.
  void norm_rows(const float* in, const float* weight, std::size_t tokens, const WeightMatrix& w,
                 float* out, const QuantizedActivations* rest);
  // x += branch, normalised first where the family does so.
  void add_branch(const float* post_norm, std::size_t tokens);
  // The input of a product with w; empty if w is not quantized.
  QuantizedActivations quantized(const WeightMatrix& w, std::size_t tokens) {
    return w.packed.quantized() ? QuantizedActivations::in(b_.quantized.data(), tokens, w.cols())
                                : QuantizedActivations{};
  }

  DecoderConfig config_;
  ModelInfo info_;
  Weights weights_;
  DecoderWeights w_;
  std::vector<KvPlace> kv_places_;  // by layer
  StepLimits limits_;
  ThreadPool& pool_;
  Arena arena_;
  Buffers b_;
};

}  // namespace plimsoll
