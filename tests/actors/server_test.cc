// The whole server with real engines, on models that compute nothing.
#include "actors/server.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/actors/testing.h"
#include "tests/engine/loop/fake_model.h"

namespace plimsoll {
namespace {

using testing::ByteTokenizer;
using testing::FakeEmbeddingModel;
using testing::FakeModel;
using testing::Listener;

constexpr std::uint32_t vocab = 260;

ModelSource fakes(std::chrono::microseconds step = {}) {
  ModelSource source;
  source.probe = [](const ModelConfig& config) -> Result<ModelInfo> {
    ModelInfo info;
    info.kind = config.name == "e" ? ModelKind::embedding : ModelKind::causal;
    info.architecture = "fake";
    info.context_tokens = 512;
    return info;
  };
  source.content_hash = [](const ModelConfig&) { return std::string("0123456789ab"); };
  source.text = [](const ModelConfig&) { return testing::byte_model_text(); };
  source.causal = [step](const ModelConfig&,
                         const LoadOptions& options) -> Result<std::unique_ptr<CausalModel>> {
    return std::make_unique<FakeModel>(testing::FakeModelOptions{
        .vocab = vocab, .limits = options.limits, .step_time = step, .on_forward = {}});
  };
  source.embedding = [](const ModelConfig&,
                        const LoadOptions& options) -> Result<std::unique_ptr<EmbeddingModel>> {
    return std::make_unique<FakeEmbeddingModel>(options.limits);
  };
  return source;
}

ServerConfig two_models() {
  ServerConfig config;
  config.models = {{"m", "m", {}}, {"e", "e", {}}};
  config.engine.threads = 1;
  config.engine.kv_bytes = 1_MiB;
  return config;
}

std::shared_ptr<Listener> generate(Server& server, GenerateRequest request) {
  auto listener = std::make_shared<Listener>();
  const std::lock_guard lock(listener->mutex);
  listener->consume = true;
  listener->stream =
      server.frontend().generate({TenantId("local"), true}, std::move(request), listener);
  return listener;
}

GenerateRequest prompt(const std::string& text, std::uint32_t max_tokens) {
  GenerateRequest request;
  request.model = "m";
  request.input = text;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.seed = 1;
  return request;
}

std::int64_t held(const Ledger& ledger) {
  std::int64_t bytes = 0;
  for (const auto& row : ledger.snapshot()) bytes += row.bytes;
  return bytes;
}

TEST(Server, ServesWhatTheModelGenerates) {
  Ledger ledger;
  {
    auto server = Server::start(two_models(), {}, fakes(), ledger);
    ASSERT_TRUE(server) << to_string(server.error());
    auto& frontend = (*server)->frontend();
    EXPECT_TRUE(frontend.ready());
    ASSERT_EQ(frontend.models().size(), 2U);
    EXPECT_EQ(frontend.models()[0].version, "m@0123456789ab");
    EXPECT_EQ(frontend.models()[0].context_tokens, 512U);
    EXPECT_EQ(frontend.status().nodes.at(0).state, "ready");

    auto request = prompt("hello", 40);
    request.choices = 3;
    const auto answer = generate(**server, request);
    ASSERT_TRUE(answer->wait());
    ASSERT_FALSE(answer->error) << to_string(*answer->error);
    const ByteTokenizer tokenizer;
    for (std::uint32_t i = 0; i < 3; ++i) {
      SamplingParams sampling;
      sampling.seed = 1 + i;
      const auto ids = FakeModel::generate(*tokenizer.encode("hello", {}), sampling, 40, vocab);
      EXPECT_EQ(answer->text.at(i), tokenizer.decode(ids, true)) << i;
    }

    std::promise<Result<EmbedResponse>> promise;
    frontend.embed({TenantId("local"), true}, {"e", {std::vector<TokenId>{1, 2, 3}}},
                   [&](Result<EmbedResponse> r, const auto&) { promise.set_value(std::move(r)); });
    const auto embedded = promise.get_future().get();
    ASSERT_TRUE(embedded) << to_string(embedded.error());
    const std::vector<TokenId> input{1, 2, 3};
    EXPECT_EQ(embedded->embeddings.at(0), FakeEmbeddingModel::vector_of(input, 8));

    bool tokenizer_charged = false;
    const auto report = frontend.memory();
    ASSERT_TRUE(report);
    for (const auto& row : report->rows) {
      tokenizer_charged = tokenizer_charged || (row.component == Component::tokenizer &&
                                                row.model == "m@0123456789ab" && row.bytes > 0);
      if (row.component == Component::requests || row.component == Component::queues) {
        EXPECT_EQ(row.bytes, 0) << to_string(row.component) << " " << row.tenant;
      }
    }
    EXPECT_TRUE(tokenizer_charged);
  }
  EXPECT_EQ(held(ledger), 0) << "everything was given back";
}

TEST(Server, StoppingEndsEveryStreamWithinTheDeadline) {
  Ledger ledger;
  auto server = Server::start(two_models(), {}, fakes(std::chrono::microseconds(2000)), ledger);
  ASSERT_TRUE(server);
  const auto quick = generate(**server, prompt("abc", 5));
  std::vector<std::shared_ptr<Listener>> endless;
  for (int i = 0; i < 8; ++i) endless.push_back(generate(**server, prompt("abc", 500)));
  for (const auto& answer : endless) ASSERT_TRUE(answer->wait_for_tokens(1));
  const auto before = std::chrono::steady_clock::now();
  (*server)->stop(std::chrono::milliseconds(200));
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(3));
  ASSERT_TRUE(quick->ended);
  EXPECT_FALSE(quick->error);
  for (const auto& answer : endless) {
    ASSERT_TRUE(answer->ended);
    ASSERT_TRUE(answer->error);
    EXPECT_EQ(answer->error->code, ErrorCode::unavailable);
  }
  EXPECT_FALSE((*server)->frontend().ready());
  server->reset();
  EXPECT_EQ(held(ledger), 0);
}

TEST(Server, DrainRefusesNewRequestsAndFinishesOldOnes) {
  Ledger ledger;
  auto server = Server::start(two_models(), {}, fakes(std::chrono::microseconds(1000)), ledger);
  ASSERT_TRUE(server);
  const auto running = generate(**server, prompt("abc", 50));
  ASSERT_TRUE(running->wait_for_tokens(1));
  (*server)->drain();
  EXPECT_FALSE((*server)->frontend().ready());
  const auto late = generate(**server, prompt("abc", 5));
  ASSERT_TRUE(late->wait());
  EXPECT_EQ(late->error->code, ErrorCode::unavailable);
  ASSERT_TRUE(running->wait());
  EXPECT_FALSE(running->error);
}

TEST(Server, DroppingItEndsStreamsToo) {
  Ledger ledger;
  auto server = Server::start(two_models(), {}, fakes(std::chrono::microseconds(1000)), ledger);
  ASSERT_TRUE(server);
  const auto answer = generate(**server, prompt("abc", 500));
  server->reset();
  ASSERT_TRUE(answer->ended);
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::unavailable);
}

TEST(Server, ServesNoLongerAContextThanTheKvPoolHolds) {
  Ledger ledger;
  auto config = two_models();
  config.engine.kv_bytes = 8 * 16 * 16 * 2 * 2;  // 8 blocks of 16 tokens
  auto server = Server::start(config, {}, fakes(), ledger);
  ASSERT_TRUE(server) << to_string(server.error());
  EXPECT_EQ((*server)->frontend().models()[0].context_tokens, 128U);
  auto request = prompt("abc", 1);
  request.max_tokens.reset();
  const auto answer = generate(**server, request);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  EXPECT_EQ(answer->usage.completion_tokens, 125U);
}

TEST(Server, SaysWhichModelCannotBeLoaded) {
  Ledger ledger;
  ServerConfig config;
  config.models = {{"gone", "/nowhere/model.gguf", {}}};
  const auto missing = Server::start(config, {}, model_files(), ledger);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::not_found);
  EXPECT_NE(missing.error().message.find("model 'gone'"), std::string::npos);
  EXPECT_NE(missing.error().message.find("/nowhere/model.gguf"), std::string::npos);

  config = two_models();
  config.models[1].name = "m";
  const auto twice = Server::start(config, {}, fakes(), ledger);
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(held(ledger), 0);
}

}  // namespace
}  // namespace plimsoll
