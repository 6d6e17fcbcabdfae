// The whole server with real engines, on models that compute nothing.
#include "actors/server.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/administration.h"
#include "actors/secrets.h"
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

// ---- routers and nodes that are servers of their own

class Cluster : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("plimsoll-cluster-" + std::to_string(::getpid()) + "-" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override {
    nodes_.clear();
    router_.reset();
    std::filesystem::remove_all(folder_);
  }

  void start_router() {
    auto config = two_models();
    config.role = Role::router;
    config.cluster.name = "router";
    config.cluster.listen_host = "127.0.0.1";
    config.cluster.listen_port = port_;
    config.cluster.state_directory = folder_ / "router";
    config.tenants = {{.name = "platform", .is_operator = true, .keys = {{sha256_hex("key")}}}};
    config.find_model = find_model;
    auto started = Server::start(config, {}, fakes(), ledger_);
    ASSERT_TRUE(started) << to_string(started.error());
    router_ = std::move(*started);
    port_ = router_->cluster_port();
  }
  Server& start_node(const std::string& name, const std::string& token) {
    auto config = two_models();
    config.role = Role::node;
    config.cluster.name = name;
    config.cluster.join = {"127.0.0.1:" + std::to_string(port_)};
    config.cluster.join_token = token;
    config.cluster.state_directory = folder_ / name;
    config.find_model = find_model;
    auto started = Server::start(config, {}, fakes(), ledger_);
    EXPECT_TRUE(started) << to_string(started.error());
    nodes_[name] = std::move(*started);
    return *nodes_[name];
  }
  static Result<ModelConfig> find_model(const std::string& source) {
    return ModelConfig{source, source, {}};
  }
  Administration& calls() { return *router_->frontend().administration(); }
  std::string state_of(const std::string& name) {
    for (const auto& node : calls().cluster().nodes) {
      if (node.name == name) return node.state;
    }
    return "unknown";
  }
  template <class Condition>
  static bool wait_until(const Condition& condition) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return condition();
  }
  std::string token() { return *calls().create_join_token(std::chrono::minutes(1)); }

  Ledger ledger_;
  std::filesystem::path folder_;
  std::uint16_t port_ = 0;
  std::unique_ptr<Server> router_;
  std::map<std::string, std::unique_ptr<Server>> nodes_;
};

TEST_F(Cluster, NodesComeInWithATokenOnceAndBackWithTheirSecret) {
  start_router();
  start_node("stranger", "");
  start_node("forger", "plj-made-up");
  const auto once = token();
  start_node("node-1", once);
  ASSERT_TRUE(wait_until([&] { return state_of("node-1") == "ready"; }));
  start_node("second", once);
  nodes_.erase("node-1");
  ASSERT_TRUE(wait_until([&] { return state_of("node-1") != "ready"; }));
  start_node("node-1", "");
  EXPECT_TRUE(wait_until([&] { return state_of("node-1") == "ready"; }));
  for (const char* outside : {"stranger", "forger", "second"}) {
    EXPECT_EQ(state_of(outside), "unknown") << outside;
  }
  // Removed, it is a stranger too.
  ASSERT_TRUE(calls().remove("node-1", true));
  nodes_.erase("node-1");
  start_node("node-1", "");
  start_node("node-2", token());
  ASSERT_TRUE(wait_until([&] { return state_of("node-2") == "ready"; }));
  EXPECT_EQ(state_of("node-1"), "unknown");
}

TEST_F(Cluster, ARouterThatIsStartedAgainKnowsWhatItKnew) {
  start_router();
  start_node("node-1", token());
  // Its models come with its first report.
  const auto serves = [&] {
    const auto nodes = router_->frontend().status().nodes;
    return nodes.size() == 1 && nodes[0].state == "ready" && !nodes[0].models.empty();
  };
  ASSERT_TRUE(wait_until(serves));
  cluster::Tenant acme;
  acme.name = "acme";
  acme.tier = cluster::Tier::guaranteed;
  const auto key = calls().create_tenant(acme);
  ASSERT_TRUE(key) << to_string(key.error());
  const auto ask = [&] {
    const auto caller = router_->frontend().authenticate(*key);
    EXPECT_TRUE(caller);
    auto listener = std::make_shared<Listener>();
    {
      const std::lock_guard lock(listener->mutex);
      listener->consume = true;
      listener->stream = router_->frontend().generate(*caller, prompt("abc", 7), listener);
    }
    EXPECT_TRUE(listener->wait());
    EXPECT_FALSE(listener->error) << to_string(*listener->error);
    return !listener->error;
  };
  EXPECT_TRUE(ask());
  ASSERT_TRUE(calls().cordon("node-1", true));

  // It ends although a node is there: what stands for it must not keep the process.
  const auto before = std::chrono::steady_clock::now();
  router_->stop(std::chrono::milliseconds(100));
  router_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(10));
  start_router();

  EXPECT_EQ(calls().tenant("acme")->tenant.tier, cluster::Tier::guaranteed);
  const auto usage = calls().usage();
  ASSERT_TRUE(usage) << to_string(usage.error());
  EXPECT_EQ(usage->at("acme").requests, 1U);
  EXPECT_EQ(usage->at("acme").generated_tokens, 7U);
  EXPECT_TRUE(wait_until([&] { return state_of("node-1") == "cordoned"; }));
  ASSERT_TRUE(calls().cordon("node-1", false));
  ASSERT_TRUE(wait_until(serves));
  EXPECT_TRUE(ask());
  EXPECT_EQ(calls().usage()->at("acme").requests, 2U);
}

TEST_F(Cluster, AModelIsLoadedAtRunTimeAndServedUntilItIsUnloaded) {
  start_router();
  start_node("node-1", token());
  ASSERT_TRUE(wait_until([&] { return state_of("node-1") == "ready"; }));
  ASSERT_TRUE(calls().load_model("extra", "extra", {}));
  auto request = prompt("abc", 5);
  request.model = "extra";
  const auto served = [&] {
    const auto listener = std::make_shared<Listener>();
    {
      const std::lock_guard lock(listener->mutex);
      listener->consume = true;
      listener->stream =
          router_->frontend().generate({TenantId("platform"), true}, request, listener);
    }
    EXPECT_TRUE(listener->wait());
    return listener->error ? to_string(listener->error->code) : "ok";
  };
  EXPECT_TRUE(wait_until([&] { return served() == "ok"; }));
  EXPECT_TRUE(wait_until([&] {
    const auto models = calls().models();
    return models && std::ranges::any_of(*models, [](const auto& model) {
             return model.name == "extra" && model.source == "extra" &&
                    model.replicas.size() == 1 && model.replicas[0].state == "ready";
           });
  }));
  ASSERT_TRUE(calls().unload_model("extra"));
  EXPECT_TRUE(wait_until([&] { return served() == "not_found"; }));
}

}  // namespace
}  // namespace plimsoll
