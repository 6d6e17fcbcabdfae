// The decoder on small models: every family against a plain double-precision forward pass, and the
// promises of forward(): chunks, batches and threads change nothing, a step allocates nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "tests/engine/models/model_runner.h"
#include "tests/engine/models/reference_decoder.h"
#include "tests/engine/models/tiny_model.h"

namespace {
std::atomic<long> allocations{0};
}
// Not inlined: g++ would take the pairs for mismatched.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace plimsoll {
namespace {

std::vector<TokenId> some_tokens(std::size_t n, TokenId seed = 3) {
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < n; ++i) ids.push_back((seed + static_cast<TokenId>(i * i)) % 101);
  return ids;
}

struct Variant {
  std::string name;
  TinyModel model;
};

std::vector<Variant> variants() {
  std::vector<Variant> all;
  all.push_back({"llama", make_tiny_model("llama")});
  all.push_back({"llama_one_kv_head", make_tiny_model("llama", {.kv_heads = 1})});
  // A head that is not hidden / heads, and an FFN that int8 products cannot take.
  all.push_back({"llama_odd_shapes", make_tiny_model("llama", {.head_dim = 32, .ffn = 100})});
  {
    Variant v{"llama_untied", make_tiny_model("llama")};
    v.model.tensors["output.weight"] = v.model.tensors["token_embd.weight"];
    std::ranges::reverse(v.model.tensors["output.weight"].values);
    all.push_back(v);
  }
  {
    Variant v{"llama_rope_factors", make_tiny_model("llama")};
    v.model.tensors["rope_freqs.weight"] = {.shape = {8}, .values = {1, 1, 1, 2, 3, 4, 8, 8}};
    all.push_back(v);
  }
  {
    Variant v{"llama_linear_scaling", make_tiny_model("llama")};
    v.model.parameters["rope.scaling.type"] = "linear";
    v.model.parameters["rope.scaling.factor"] = 4.0F;
    all.push_back(v);
  }
  {
    Variant v{"llama_half_weights", make_tiny_model("llama", {}, TensorType::f16)};
    // A norm that is no float32 is expanded when the model is loaded.
    v.model.tensors["output_norm.weight"].type = TensorType::f16;
    all.push_back(v);
  }
  all.push_back({"qwen2", make_tiny_model("qwen2")});
  all.push_back({"qwen3", make_tiny_model("qwen3", {.head_dim = 32})});
  // Seven layers: layer 5 sees everything, the others a window of 8.
  all.push_back({"gemma3", make_tiny_model("gemma3", {.layers = 7, .kv_heads = 1})});
  {
    Variant v{"gemma3_caps_and_scaling", make_tiny_model("gemma3", {.layers = 7})};
    v.model.parameters["attn_logit_softcapping"] = 2.0F;
    v.model.parameters["final_logit_softcapping"] = 3.0F;
    v.model.parameters["rope.scaling.type"] = "linear";
    v.model.parameters["rope.scaling.factor"] = 8.0F;
    all.push_back(v);
  }
  return all;
}

class DecoderVariant : public ::testing::TestWithParam<Variant> {};

TEST_P(DecoderVariant, EqualsThePlainForwardPass) {
  TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  GetParam().model.write(path);
  ModelRunner runner(path, {.kv_type = KvType::f16});
  ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
  const auto tokens = some_tokens(40);
  const auto expected = reference_logits(GetParam().model, tokens);
  EXPECT_LT(relative_error(runner.all_logits(tokens, 40), expected), 3e-4);
}

INSTANTIATE_TEST_SUITE_P(All, DecoderVariant, ::testing::ValuesIn(variants()),
                         [](const auto& info) { return info.param.name; });

// The int8 path on weights that Q8_0 holds exactly: what differs is the activations' rounding.
TEST(Decoder, Int8IsCloseToThePlainForwardPass) {
  for (const char* family : {"llama", "qwen2", "qwen3", "gemma3"}) {
    TemporaryFolder folder;
    const auto path = folder.path() / "model.gguf";
    const TinyModel model = make_tiny_model(family, {.layers = 7}, TensorType::q8_0);
    model.write(path);
    ModelRunner runner(path, {.compute = ComputeMode::automatic});
    ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
    EXPECT_EQ(runner.model()->info().quantization, "Q8_0");
    const auto tokens = some_tokens(40);
    const auto expected = reference_logits(model, tokens);
    const auto logits = runner.all_logits(tokens, 40);
    EXPECT_LT(relative_error(logits, expected), 0.05) << family;
    ModelRunner exact(path, {.compute = ComputeMode::float32});
    EXPECT_NE(logits, exact.all_logits(tokens, 40)) << "the int8 path was not taken";
  }
}

class DecoderSteps : public ::testing::TestWithParam<std::tuple<const char*, ComputeMode, KvType>> {
 protected:
  void SetUp() override {
    const auto& [family, compute, kv_type] = GetParam();
    make_tiny_model(family, {.layers = 7}, TensorType::q8_0).write(path_);
    options_ = {.compute = compute, .kv_type = kv_type};
  }
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model.gguf";
  ModelRunner::Options options_;
};

TEST_P(DecoderSteps, ChunksOfAnySizeGiveTheSameBits) {
  ModelRunner runner(path_, options_);
  ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
  const auto tokens = some_tokens(50);
  const auto whole = runner.all_logits(tokens, 50);
  for (const std::uint32_t chunk : {1, 3, 16, 17, 49}) {
    EXPECT_EQ(runner.all_logits(tokens, chunk), whole) << "chunks of " << chunk;
  }
}

TEST_P(DecoderSteps, ThreadsChangeNothing) {
  const auto tokens = some_tokens(50);
  options_.threads = 1;
  const auto one = ModelRunner(path_, options_).all_logits(tokens, 50);
  options_.threads = 3;
  EXPECT_EQ(ModelRunner(path_, options_).all_logits(tokens, 50), one);
}

// A prefill, the end of another one, a decode step and a chunk without logits, in one step.
TEST_P(DecoderSteps, ABatchGivesEachSequenceWhatItGetsAlone) {
  ModelRunner runner(path_, options_);
  ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
  const std::size_t vocab = runner.model()->info().vocab;
  const std::vector<std::vector<TokenId>> texts = {some_tokens(20, 1), some_tokens(37, 2),
                                                   some_tokens(30, 5), some_tokens(11, 7)};
  const std::vector<std::uint32_t> before = {0, 25, 29, 0};  // tokens of earlier steps
  const std::vector<std::uint32_t> rows = {1, 12, 1, 0};
  std::vector<ModelRunner::Sequence> sequences(texts.size());
  std::vector<SequenceChunk> step;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::span<const TokenId> text(texts[i]);
    runner.prefill(sequences[i], text.first(before[i]), 16);
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::span<const TokenId> text(texts[i]);
    step.push_back(runner.chunk(sequences[i], text.subspan(before[i]), rows[i]));
  }
  const auto together = runner.step(step);
  ASSERT_EQ(together.size(), 14 * vocab);

  std::vector<float> alone;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto logits = runner.all_logits(texts[i], 64);
    alone.insert(alone.end(), logits.end() - static_cast<std::ptrdiff_t>(rows[i] * vocab),
                 logits.end());
  }
  EXPECT_EQ(together, alone);
}

INSTANTIATE_TEST_SUITE_P(All, DecoderSteps,
                         ::testing::Values(std::tuple{"llama", ComputeMode::float32, KvType::f16},
                                           std::tuple{"llama", ComputeMode::int8, KvType::bf16},
                                           std::tuple{"gemma3", ComputeMode::float32, KvType::int8},
                                           std::tuple{"gemma3", ComputeMode::int8, KvType::bf16},
                                           std::tuple{"llama", ComputeMode::int8, KvType::int4},
                                           std::tuple{"gemma3", ComputeMode::float32,
                                                      KvType::int4}),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == ComputeMode::int8 ? "_int8"
                                                                                : "_float32") +
                                  "_kv_" + std::string(to_string(std::get<2>(info.param)));
                         });

TEST(Decoder, SmallerKvIsCloseToF16) {
  TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  make_tiny_model("llama").write(path);
  const auto tokens = some_tokens(50);
  const auto f16 = ModelRunner(path, {.kv_type = KvType::f16}).all_logits(tokens, 50);
  const auto bf16 = ModelRunner(path, {.kv_type = KvType::bf16}).all_logits(tokens, 50);
  EXPECT_LT(relative_error(bf16, f16), 0.01);
  EXPECT_NE(bf16, f16);
  const auto int8 = ModelRunner(path, {.kv_type = KvType::int8}).all_logits(tokens, 50);
  EXPECT_LT(relative_error(int8, f16), 0.03);
  EXPECT_NE(int8, f16);
  // A step of int4 is 2/15 of a group's largest, where one of int8 is 1/127.
  const auto int4 = ModelRunner(path, {.kv_type = KvType::int4}).all_logits(tokens, 50);
  EXPECT_LT(relative_error(int4, f16), 0.3);
  EXPECT_NE(int4, int8);
}

TEST(Decoder, AStepAllocatesNothing) {
  TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  make_tiny_model("gemma3", {.layers = 7}, TensorType::q8_0).write(path);
  for (const ComputeMode compute : {ComputeMode::float32, ComputeMode::int8}) {
    ModelRunner runner(path, {.compute = compute});
    ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
    const auto tokens = some_tokens(40);
    ModelRunner::Sequence a, b;
    const std::span<const TokenId> all(tokens);
    const std::vector<SequenceChunk> step = {runner.chunk(a, all, 40),
                                             runner.chunk(b, all.first(9), 1)};
    std::vector<float> logits(41 * std::size_t{runner.model()->info().vocab});
    const long before = allocations;
    runner.model()->forward(step, runner.kv(), logits.data());
    EXPECT_EQ(allocations - before, 0);
  }
}

TEST(Decoder, ChargesTheLedgerAndGivesBack) {
  TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  make_tiny_model("llama", {}, TensorType::q8_0).write(path);
  ModelRunner runner(path, {.compute = ComputeMode::int8});
  ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
  const auto& activations = runner.ledger().account(Component::activations, "test", shared_tenant);
  const auto& weights =
      runner.ledger().account(Component::weights, "test", shared_tenant, MemoryKind::mapped);
  // 256 tokens of residual stream, normed input and branch alone.
  EXPECT_GT(activations.bytes(), 256 * 64 * 3 * 4);
  const auto file_bytes = static_cast<std::int64_t>(std::filesystem::file_size(path));
  EXPECT_GT(weights.bytes(), file_bytes) << "the packed copy is mapped too";
  EXPECT_EQ(runner.model()->info().file_bytes, static_cast<std::uint64_t>(file_bytes));
  runner.unload();
  EXPECT_EQ(activations.bytes(), 0);
  EXPECT_EQ(weights.bytes(), 0);
}

TEST(Decoder, WhatItTakesIsKnownBefore) {
  TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  for (const auto type : {TensorType::q8_0, TensorType::f16}) {
    make_tiny_model("gemma3", {}, type).write(path);
    for (const auto compute : {ComputeMode::automatic, ComputeMode::float32, ComputeMode::int8}) {
      const ModelRunner::Options options{.compute = compute};
      const auto memory = model_memory(path, compute);
      ASSERT_TRUE(memory) << to_string(memory.error());
      ModelRunner runner(path, options);
      ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
      const auto charged = [&](Component component, MemoryKind kind) {
        return runner.ledger().account(component, "test", shared_tenant, kind).bytes();
      };
      constexpr std::int64_t page = 4096;
      const auto steps =
          static_cast<std::int64_t>(memory->activation_bytes(options.limits, options.threads));
      EXPECT_EQ(charged(Component::activations, MemoryKind::anonymous),
                (steps + page - 1) / page * page);
      EXPECT_EQ(charged(Component::weights, MemoryKind::mapped),
                static_cast<std::int64_t>(memory->mapped_bytes));
      EXPECT_EQ(charged(Component::weights, MemoryKind::anonymous),
                static_cast<std::int64_t>(memory->weight_bytes));
    }
  }
}

TEST(Decoder, ProbeTellsWhatLoadTells) {
  TemporaryFolder folder;
  const auto path = folder.path() / "small.gguf";
  TinyModel model = make_tiny_model("qwen3", {.head_dim = 32}, TensorType::q8_0);
  model.parameters["general.name"] = "Small One";
  model.write(path);
  const auto probed = probe_model(path);
  ASSERT_TRUE(probed) << to_string(probed.error());
  EXPECT_EQ(probed->kind, ModelKind::causal);
  EXPECT_EQ(probed->architecture, "qwen3");
  EXPECT_EQ(probed->name, "Small One");
  EXPECT_EQ(probed->layers, 2U);
  EXPECT_EQ(probed->hidden, 64U);
  EXPECT_EQ(probed->heads, 4U);
  EXPECT_EQ(probed->kv_heads, 2U);
  EXPECT_EQ(probed->head_dim, 32U);
  EXPECT_EQ(probed->vocab, 101U);
  EXPECT_EQ(probed->context_tokens, 512U);
  EXPECT_EQ(probed->quantization, "Q8_0");
  // embedding, output norm; per layer Q and output, K and V, FFN, norms of hidden and of heads
  EXPECT_EQ(probed->parameters,
            101U * 64 + 64 + 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 96 * 64 + 2 * 64 + 2 * 32));
  ModelRunner runner(path, {});
  ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
  EXPECT_EQ(runner.model()->info().parameters, probed->parameters);
  const KvLayout layout = kv_layout(runner.model()->info(), 32, KvType::int8);
  EXPECT_EQ(layout.layers, 2U);
  EXPECT_EQ(layout.layer_groups(), 1U);
  EXPECT_EQ(layout.kv_heads, 2U);
  EXPECT_EQ(layout.head_dim, 32U);
  EXPECT_EQ(layout.block_tokens, 32U);
}

}  // namespace
}  // namespace plimsoll
