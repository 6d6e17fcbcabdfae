// all-MiniLM-L6-v2 against transformers: golden/minilm.json, made by tests/golden/make_models.py.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/models/model_runner.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll {
namespace {

class MiniLm : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream in(std::string(PLIMSOLL_TEST_DATA) + "/engine/models/golden/minilm.json");
    golden_ = nlohmann::json::parse(in);
    path_ = models_folder() / golden_["folder"].get<std::string>();
    if (!std::filesystem::exists(path_)) {
      GTEST_SKIP() << path_ << " is absent: fetch it with `plimsoll pull`, or set PLIMSOLL_MODELS";
    }
    auto model = load_embedding_model(path_, LoadOptions{.model_version = "test",
                                                         .compute = ComputeMode::float32,
                                                         .cache_directory = {},
                                                         .limits = {.tokens = 1024},
                                                         .ledger = &ledger_,
                                                         .pool = &pool_,
                                                         .progress = {}});
    ASSERT_TRUE(model) << to_string(model.error());
    model_ = std::move(*model);
    for (const auto& c : golden_["cases"]) {
      inputs_.push_back(c["ids"].get<std::vector<TokenId>>());
      expected_.push_back(c["embedding"].get<std::vector<float>>());
    }
  }

  Result<std::unique_ptr<EmbeddingModel>> load(ComputeMode compute) {
    return load_embedding_model(path_, {.model_version = "m@packed",
                                        .compute = compute,
                                        .cache_directory = cache_.path(),
                                        .limits = {.tokens = 1024},
                                        .ledger = &ledger_,
                                        .pool = &pool_,
                                        .progress = {}});
  }

  nlohmann::json golden_;
  std::filesystem::path path_;
  TemporaryFolder cache_;  // of packed weights
  Ledger ledger_;
  ThreadPool pool_{2};
  std::unique_ptr<EmbeddingModel> model_;
  std::vector<std::vector<TokenId>> inputs_;
  std::vector<std::vector<float>> expected_;
};

// What the fast paths cost: the angle to float32's vector.
TEST_F(MiniLm, PackedWeightsPointTheSameWay) {
  for (const auto& [compute, floor] :
       {std::pair{ComputeMode::automatic, 0.9999}, std::pair{ComputeMode::int8, 0.999}}) {
    const auto model = load(compute);
    ASSERT_TRUE(model) << to_string(model.error());
    const std::size_t n = (*model)->info().hidden;
    double least = 1;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const std::span<const TokenId> input = inputs_[i];
      std::vector<float> got(n);
      (*model)->embed({&input, 1}, got.data());
      double cosine = 0;
      for (std::size_t j = 0; j < n; ++j) cosine += got[j] * expected_[i][j];
      least = std::min(least, cosine);
    }
    std::cout << (compute == ComputeMode::int8 ? "int8" : "bf16") << ": least cosine " << least
              << "\n";
    EXPECT_GT(least, floor);
  }
}

TEST_F(MiniLm, EqualsTheReferenceInOneBatchAndAlone) {
  const std::size_t n = model_->info().hidden;
  ASSERT_EQ(n, 384U);
  const std::vector<std::span<const TokenId>> batch(inputs_.begin(), inputs_.end());
  std::vector<float> together(batch.size() * n);
  model_->embed(batch, together.data());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    SCOPED_TRACE(golden_["cases"][i]["text"]);
    double cosine = 0;
    double difference = 0;
    double squares = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const double got = together[i * n + j];
      cosine += got * expected_[i][j];
      squares += got * got;
      difference = std::max(difference, std::abs(got - expected_[i][j]));
    }
    EXPECT_GT(cosine, 0.9999);
    EXPECT_LT(difference, 1e-4);
    EXPECT_NEAR(squares, 1.0, 1e-5);
    std::vector<float> alone(n);
    model_->embed({&batch[i], 1}, alone.data());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), &together[i * n]));
  }
}

// Threads that each take whole inputs, and threads that share one.
TEST_F(MiniLm, ManyShortInputsEqualThoseAlone) {
  for (const ComputeMode compute : {ComputeMode::bf16, ComputeMode::int8}) {
    const auto model = load(compute);
    ASSERT_TRUE(model) << to_string(model.error());
    const std::size_t n = (*model)->info().hidden;
    std::vector<std::span<const TokenId>> batch;
    for (std::size_t i = 0; i < 40; ++i) {
      const std::span<const TokenId> input = inputs_[i % inputs_.size()];
      batch.push_back(input.first(std::min(input.size(), 1 + i % 19)));
    }
    std::vector<float> together(batch.size() * n);
    (*model)->embed(batch, together.data());
    for (std::size_t i = 0; i < batch.size(); ++i) {
      std::vector<float> alone(n);
      (*model)->embed({&batch[i], 1}, alone.data());
      ASSERT_TRUE(std::equal(alone.begin(), alone.end(), &together[i * n])) << i;
    }
  }
}

TEST_F(MiniLm, TellsWhatItIs) {
  const auto info = probe_model(path_);
  ASSERT_TRUE(info) << to_string(info.error());
  EXPECT_EQ(info->kind, ModelKind::embedding);
  EXPECT_EQ(info->architecture, "bert");
  EXPECT_EQ(info->name, "all-minilm-l6-v2");
  EXPECT_EQ(info->layers, 6U);
  EXPECT_EQ(info->heads, 12U);
  EXPECT_EQ(info->vocab, 30522U);
  EXPECT_EQ(info->context_tokens, 256U);  // sentence_bert_config.json
  EXPECT_EQ(info->quantization, "F32");
  const auto& mapped =
      ledger_.account(Component::weights, "test", shared_tenant, MemoryKind::mapped);
  EXPECT_EQ(mapped.bytes(), static_cast<std::int64_t>(info->file_bytes));
  const auto memory = model_memory(path_, ComputeMode::float32);
  ASSERT_TRUE(memory) << to_string(memory.error());
  EXPECT_EQ(memory->mapped_bytes, info->file_bytes);
  // With them, two bytes for each weight of the layers' products: 4 of 384 x 384, 2 of 384 x 1536.
  const auto packed = model_memory(path_, ComputeMode::automatic);
  ASSERT_TRUE(packed) << to_string(packed.error());
  const std::uint64_t layers = 6 * (4 * 384 * 384 + 2 * 384 * 1536) * 2;
  EXPECT_NEAR(packed->mapped_bytes, info->file_bytes + layers, 8192);
}

TEST_F(MiniLm, TextSideLoadsAlone) {
  const auto text = load_model_text(path_);
  ASSERT_TRUE(text) << to_string(text.error());
  EXPECT_EQ(text->chat_template, "");
  for (const auto& c : golden_["cases"]) {
    auto ids = text->tokenizer->encode(c["text"].get<std::string>(), {});
    ASSERT_TRUE(ids);
    if (ids->size() > 256) continue;  // the reference cuts
    EXPECT_EQ(*ids, c["ids"].get<std::vector<TokenId>>());
  }
}

}  // namespace
}  // namespace plimsoll
