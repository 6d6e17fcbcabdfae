// The engine on models that compute: the text of a sequence depends on its seed, prompt and
// parameters alone. Here that includes the kernels: prefill in other chunks, recomputation after a
// preemption, shared prefixes and other batches must give the same numbers to the last bit.
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>

#include "engine/kernels/cpu/thread_pool.h"
#include "tests/engine/loop/engine_harness.h"
#include "tests/engine/models/model_runner.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll::testing {
namespace {

struct Setting {
  std::uint32_t rows;  // of a block table, for which the pool has room
  std::uint32_t chunk_tokens;
  std::uint32_t sequences;
  KvType kv_type = KvType::bf16;
  // Tokens after which each client stops reading until all have got as many.
  std::optional<std::uint32_t> pause_after = {};
  bool speculation = true;
  std::optional<StepCost> step_cost = {};
};

// Drafts are tried.
constexpr StepCost drafts_are_cheap{.base = 0.01, .per_token = 0.0005};

class RealModel {
 public:
  RealModel(std::filesystem::path path, ComputeMode compute)
      : path_(std::move(path)), compute_(compute) {}

  // What each of the requests says in this setting, all submitted at once.
  std::vector<std::vector<TokenId>> run(const Setting& setting,
                                        const std::vector<SequenceRequest>& requests) {
    EngineConfig config;
    config.model_version = "m@1";
    config.limits = {
        .tokens = 64, .sequences = setting.sequences, .logit_rows = 8, .context_tokens = 256};
    config.chunk_tokens = setting.chunk_tokens;
    config.kv_type = setting.kv_type;
    config.speculation = setting.speculation;
    config.step_cost = setting.step_cost;
    Ledger ledger;
    ThreadPool pool(2);
    LoadOptions options;
    options.model_version = config.model_version;
    options.compute = compute_;
    options.cache_directory = cache_.path();
    options.limits = config.limits;
    options.ledger = &ledger;
    options.pool = &pool;
    auto model = load_causal_model(path_, options);
    if (!model) throw std::runtime_error(to_string(model.error()));
    const KvLayout layout = kv_layout((*model)->info(), config.block_tokens, config.kv_type);
    const auto demand = KvDemand::of(layout, std::min(config.chunk_tokens, config.limits.tokens));
    config.kv_budget_bytes = demand.blocks(setting.rows) * layout.block_bytes();
    EngineHarness harness(std::move(*model), config, ledger);
    for (auto request : requests) {
      request.credit = setting.pause_after.value_or(request.credit);
      const auto accepted = harness.engine().submit(request);
      if (!accepted) throw std::runtime_error(to_string(accepted.error()));
    }
    for (const auto& request : requests) {
      if (!setting.pause_after) break;
      EXPECT_TRUE(harness.wait_tokens(request.id.get(), *setting.pause_after));
    }
    for (const auto& request : requests) {
      if (setting.pause_after) harness.engine().add_credit(request.id, request.max_new_tokens);
    }
    std::vector<std::vector<TokenId>> texts;
    for (const auto& request : requests) {
      const Outcome outcome = harness.outcome(request.id.get());
      EXPECT_FALSE(outcome.error) << to_string(*outcome.error);
      texts.push_back(outcome.tokens);
    }
    preemptions = harness.engine().stats().preemptions_total;
    cached = harness.engine().stats().cached_prompt_tokens_total;
    accepted = harness.engine().stats().accepted_draft_tokens_total;
    return texts;
  }

  std::uint64_t preemptions = 0, cached = 0, accepted = 0;

 private:
  std::filesystem::path path_;
  ComputeMode compute_;
  TemporaryFolder cache_;
};

// Prompts of which some share a beginning, greedy and sampled.
std::vector<SequenceRequest> requests(std::uint32_t vocab, std::uint32_t count,
                                      std::uint32_t answer) {
  std::vector<SequenceRequest> result;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto prompt = make_prompt(i % 2 * 32, 1, vocab);
    const auto rest = make_prompt(3 + i * 5, i + 2, vocab);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    result.push_back(make_request(i + 1, std::move(prompt), answer, i % 3 == 2 ? "bob" : "alice"));
    result.back().sampling.temperature = i % 2 == 0 ? 1.0F : 0.0F;
    result.back().sampling.top_p = 0.95F;
  }
  return result;
}

void expect_same_text_in_any_company(RealModel& model, std::uint32_t vocab, std::uint32_t count,
                                     std::uint32_t answer, KvType kv_type) {
  const auto all = requests(vocab, count, answer);
  std::vector<std::vector<TokenId>> alone;
  for (const auto& request : all) {
    alone.push_back(model.run({32, 64, 8, kv_type}, {request})[0]);
  }
  EXPECT_EQ(model.run({128, 64, 8, kv_type}, all), alone) << "together";
  EXPECT_EQ(model.run({128, 7, 3, kv_type}, all), alone) << "in small chunks";
  EXPECT_GT(model.cached, 0U);
  // As few rows as the largest sequence needs, and one more.
  std::uint32_t rows = 0;
  for (const auto& request : all) {
    rows = std::max<std::uint32_t>(rows, (request.prompt.size() + answer - 1 + 15) / 16);
  }
  EXPECT_EQ(model.run({rows + 1, 64, 8, kv_type}, all), alone) << "in a tiny pool";
  // Halfway all of them together hold more than that: whoever paused had to leave it to the next.
  EXPECT_EQ(model.run({rows + 1, 64, 8, kv_type, answer / 2}, all), alone) << "preempted";
  EXPECT_GT(model.preemptions, 0U);
}

// A node that dies may have given any number of tokens: another goes on behind them. There they are
// prefilled, in chunks and beside others, where the first node decoded them one by one.
void expect_same_text_from_any_length(RealModel& model, std::uint32_t vocab, std::uint32_t answer,
                                      KvType kv_type) {
  auto request = make_request(1, make_prompt(21, 1, vocab), answer);
  request.sampling.temperature = 0.9F;
  const auto whole = model.run({32, 64, 8, kv_type}, {request})[0];
  ASSERT_EQ(whole.size(), answer);
  std::vector<SequenceRequest> resumed;
  for (std::uint32_t length = 1; length < answer; ++length) {
    resumed.push_back(request);
    resumed.back().id = RequestId{length};
    resumed.back().tenant = TenantId{"tenant-" + std::to_string(length % 5)};
    resumed.back().resumed.assign(whole.begin(), whole.begin() + length);
  }
  for (const std::uint32_t chunk_tokens : {64U, 5U}) {
    const auto rests = model.run({512, chunk_tokens, 8, kv_type}, resumed);
    for (std::uint32_t length = 1; length < answer; ++length) {
      EXPECT_EQ(rests[length - 1], std::vector<TokenId>(whole.begin() + length, whole.end()))
          << "behind " << length << " tokens, in chunks of " << chunk_tokens;
    }
  }
}

// Prompts that go round in circles, so that there are drafts from the beginning, and greedy texts,
// that come to do the same.
void expect_same_text_with_and_without_drafts(RealModel& model, std::uint32_t vocab,
                                              std::uint32_t count, std::uint32_t answer,
                                              KvType kv_type) {
  std::vector<SequenceRequest> all;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto circle = make_prompt(15, i + 1, vocab);
    auto prompt = circle;
    for (int round = 0; round < 3; ++round) {
      prompt.insert(prompt.end(), circle.begin(), circle.end());
    }
    all.push_back(make_request(i + 1, std::move(prompt), answer, i % 3 == 2 ? "bob" : "alice"));
    all.back().sampling.temperature = i % 2 == 0 ? 0.0F : 0.3F;
    if (i % 3 == 1) all.back().sampling.frequency_penalty = 0.1F;
  }
  std::uint64_t accepted = 0;
  for (const auto& request : all) {
    const auto without = model.run({32, 64, 8, kv_type, {}, false}, {request});
    EXPECT_EQ(model.accepted, 0U);
    EXPECT_EQ(model.run({32, 64, 8, kv_type, {}, true, drafts_are_cheap}, {request}), without);
    accepted += model.accepted;
  }
  EXPECT_GT(accepted, 0U);
  const auto without = model.run({128, 64, 8, kv_type, {}, false}, all);
  EXPECT_EQ(model.run({128, 64, 8, kv_type, {}, true, drafts_are_cheap}, all), without)
      << "together";
  const std::uint32_t rows = (60 + answer - 1 + 15) / 16;  // what one of them needs
  EXPECT_EQ(model.run({rows, 64, 8, kv_type, answer / 2, true, drafts_are_cheap}, all), without)
      << "preempted";
  EXPECT_GT(model.preemptions, 0U);
}

// Of gemma3's layers the last sees all tokens, the others a window of 8.
constexpr TinyShape shape{.layers = 6};

class TinyModels : public ::testing::TestWithParam<std::tuple<const char*, ComputeMode, KvType>> {};

TEST_P(TinyModels, ASeedGivesTheSameTextInAnyCompany) {
  const auto& [architecture, compute, kv_type] = GetParam();
  TemporaryFolder folder;
  const auto path = folder.path() / "tiny.gguf";
  make_tiny_model(architecture, shape, TensorType::q8_0).write(path);
  RealModel model(path, compute);
  expect_same_text_in_any_company(model, 101, 8, 40, kv_type);
}

TEST_P(TinyModels, AnotherEngineGoesOnBehindAnyLength) {
  const auto& [architecture, compute, kv_type] = GetParam();
  TemporaryFolder folder;
  const auto path = folder.path() / "tiny.gguf";
  make_tiny_model(architecture, shape, TensorType::q8_0).write(path);
  RealModel model(path, compute);
  expect_same_text_from_any_length(model, 101, 60, kv_type);
}

TEST_P(TinyModels, DraftsDoNotChangeTheText) {
  const auto& [architecture, compute, kv_type] = GetParam();
  TemporaryFolder folder;
  const auto path = folder.path() / "tiny.gguf";
  make_tiny_model(architecture, shape, TensorType::q8_0).write(path);
  RealModel model(path, compute);
  expect_same_text_with_and_without_drafts(model, 101, 6, 150, kv_type);
}

INSTANTIATE_TEST_SUITE_P(
    Families, TinyModels,
    ::testing::Combine(::testing::Values("llama", "gemma3"),
                       ::testing::Values(ComputeMode::float32, ComputeMode::int8),
                       ::testing::Values(KvType::bf16, KvType::f16, KvType::int8, KvType::int4)));

class PublishedModel : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(path_))
      GTEST_SKIP() << path_ << " is absent: fetch it with `plimsoll pull`, or set PLIMSOLL_MODELS";
  }
  std::filesystem::path path_ =
      models_folder() / "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
  RealModel model_{path_, ComputeMode::int8};
};

TEST_F(PublishedModel, ASeedGivesTheSameTextInAnyCompany) {
  expect_same_text_in_any_company(model_, 49152, 4, 40, KvType::bf16);
}

TEST_F(PublishedModel, AnotherEngineGoesOnBehindAnyLength) {
  expect_same_text_from_any_length(model_, 49152, 40, KvType::bf16);
}

TEST_F(PublishedModel, DraftsDoNotChangeTheText) {
  expect_same_text_with_and_without_drafts(model_, 49152, 3, 60, KvType::bf16);
}

}  // namespace
}  // namespace plimsoll::testing
