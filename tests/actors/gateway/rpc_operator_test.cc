// The operator's calls, from the C++ SDK over loopback to an Administration without a cluster.
#include "actors/gateway/rpc_operator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <future>

#include "actors/gateway/rpc_gateway.h"
#include "client/operator.h"
#include "tests/actors/gateway/fake_administration.h"
#include "tests/actors/gateway/fake_frontend.h"

namespace plimsoll {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

class RpcOperatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    frontend_.administrator = &administration_;
    RpcConfig config;
    config.listen.port = 0;
    config.connections = 8;
    auto started = RpcGateway::start(config, frontend_, ledger_);
    ASSERT_TRUE(started) << started.error().message;
    gateway_ = std::move(*started);
  }
  void TearDown() override { administration_.release(); }

  client::Client connect(const std::string& key = "") const {
    client::Options options;
    options.addresses = {"127.0.0.1:" + std::to_string(gateway_->port())};
    options.api_key = key;
    options.retry_ms = 0;
    return client::Client(options);
  }
  static client::Error error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const client::Error& e) {
      return e;
    }
    return {"none", "the call went well"};
  }

  Ledger ledger_;
  FakeAdministration administration_;
  FakeFrontend frontend_;
  std::unique_ptr<RpcGateway> gateway_;
};

TEST_F(RpcOperatorTest, ShowsTheCluster) {
  auto client = connect();
  const auto view = client::Operator(client).view();
  EXPECT_EQ(view.version, "0.2.0");
  EXPECT_EQ(view.store, "etcd");
  EXPECT_EQ(view.membership_version, 41U);
  EXPECT_EQ(view.uptime_seconds, 93784);
  ASSERT_EQ(view.routers.size(), 2U);
  EXPECT_EQ(view.routers[0].name, "router-a");
  EXPECT_EQ(view.routers[0].address, "10.0.0.9:8081");
  EXPECT_TRUE(view.routers[0].self);
  EXPECT_FALSE(view.routers[1].self);
  EXPECT_EQ(view.routers[1].streams, 3U);
  EXPECT_EQ(view.routers[1].tokens_per_second, 9);
  ASSERT_EQ(view.nodes.size(), 2U);
  const auto& a = view.nodes[0];
  EXPECT_EQ(a.name, "node-a");
  EXPECT_EQ(a.state, "ready");
  EXPECT_EQ(a.address, "10.0.0.1:7001");
  EXPECT_EQ(a.version, "0.2.0");
  EXPECT_EQ(a.epoch, 7U);
  EXPECT_EQ(a.weight, 1.5);
  EXPECT_EQ(a.slow_factor, 1);
  EXPECT_EQ(a.heartbeat_age_seconds, 0.25);
  EXPECT_EQ(a.sequences, 12U);
  EXPECT_EQ(a.tokens_per_second, 340.5);
  EXPECT_EQ(a.memory_used_bytes, 3ULL << 30);
  EXPECT_EQ(a.memory_limit_bytes, 8ULL << 30);
  EXPECT_EQ(a.pressure, "yellow");
  EXPECT_THAT(a.models, ElementsAre("llama", "bert"));
  EXPECT_EQ(view.nodes[1].slow_factor, 0.5);
}

TEST_F(RpcOperatorTest, ChangesNodes) {
  auto client = connect();
  client::Operator op(client);
  op.cordon("node-a", true);
  op.cordon("node-a", false);
  const auto drained = op.drain("node-a", 5s);
  EXPECT_EQ(drained.finished, 9U);
  EXPECT_EQ(drained.moved, 4U);
  EXPECT_EQ(drained.cut, 1U);
  op.remove("node-a", false);
  op.remove("node-b", true);
  const auto moves = op.rebalance(true);
  ASSERT_EQ(moves.size(), 1U);
  EXPECT_EQ(moves[0].tenant, "acme");
  EXPECT_EQ(moves[0].from, "node-a");
  EXPECT_EQ(moves[0].to, "node-b");
  EXPECT_EQ(moves[0].sequences, 6U);
  op.rebalance(false);
  EXPECT_THAT(administration_.asked(),
              ElementsAre("cordon node-a", "uncordon node-a", "drain node-a 5000", "remove node-a",
                          "remove node-b force", "rebalance dry", "rebalance"));
}

TEST_F(RpcOperatorTest, Events) {
  auto client = connect();
  client::Operator op(client);
  const auto events = op.events({.after = 3, .node = "n", .kind = "refuse", .limit = 9});
  EXPECT_THAT(administration_.asked(), ElementsAre("events after 3 limit 9 node n kind refuse"));
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].level, "orange");
  const auto& e = events[1];
  EXPECT_EQ(e.id, 8U);
  EXPECT_EQ(e.unix_seconds, 1'800'000'001.5);
  EXPECT_EQ(e.node, "node-a");
  EXPECT_EQ(e.kind, "refuse");
  EXPECT_EQ(e.tenant, "acme");
  EXPECT_EQ(e.model, "llama");
  EXPECT_EQ(e.cause, "no headroom for 4.0 MiB");
  EXPECT_EQ(e.bytes, 4U << 20);
  EXPECT_EQ(e.count, 12U);
  EXPECT_EQ(e.used_bytes, 7ULL << 30);
  EXPECT_EQ(e.limit_bytes, 8ULL << 30);
  EXPECT_EQ(error_of([&] { op.events({.kind = "thunder"}); }).code, "invalid_argument");
}

TEST_F(RpcOperatorTest, JoinTokens) {
  auto client = connect();
  client::Operator op(client);
  EXPECT_EQ(op.create_join_token(1h), "plj-0123456789");
  const auto tokens = op.join_tokens();
  ASSERT_EQ(tokens.size(), 2U);
  EXPECT_EQ(tokens[1].id, "plj-99");
  EXPECT_EQ(tokens[1].expires, 1'800'003'600U);
  op.revoke_join_token("plj-99");
  EXPECT_THAT(administration_.asked(),
              ElementsAre("create_join_token 3600", "join_tokens", "revoke_join_token plj-99"));
}

TEST_F(RpcOperatorTest, ShowsTenants) {
  auto client = connect();
  client::Operator op(client);
  const auto list = op.tenants();
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[1].tenant.name, "ops");
  EXPECT_EQ(list[1].tenant.tier, "best-effort");
  EXPECT_TRUE(list[1].tenant.suspended);
  EXPECT_TRUE(list[1].tenant.is_operator);
  const auto view = op.tenant("acme");
  EXPECT_EQ(view.tenant.name, "acme");
  EXPECT_EQ(view.tenant.tier, "guaranteed");
  EXPECT_FALSE(view.tenant.suspended);
  EXPECT_FALSE(view.tenant.is_operator);
  EXPECT_TRUE(view.tenant.no_store);
  EXPECT_EQ(view.tenant.disk_cache_bytes, 3ULL << 30);
  EXPECT_THAT(view.tenant.disk_cache_ttl, ElementsAre(std::pair("embedding", 3'600'000ms)));
  const client::Quota quota{10,         5000,       800.5, 12,   32,   2ULL << 30, 1ULL << 29,
                            3ULL << 29, 1ULL << 30, 4096,  1024, 6000, 30'000,     {"llama"}};
  EXPECT_EQ(view.tenant.quota, quota);
  ASSERT_EQ(view.tenant.keys.size(), 2U);
  EXPECT_EQ(view.tenant.keys[1].created, 1'600'000'000U);
  EXPECT_EQ(view.tenant.keys[1].expires, 1'700'003'600U);
  EXPECT_THAT(view.home, ElementsAre("node-a", "node-b"));
  EXPECT_EQ(view.sequences, 5U);
  EXPECT_EQ(view.tokens_per_second, 120.25);
  EXPECT_EQ(view.memory_bytes, 3ULL << 29);
}

TEST_F(RpcOperatorTest, ChangesTenants) {
  auto client = connect();
  client::Operator op(client);
  client::Tenant tenant;
  tenant.name = "globex";
  tenant.tier = "best-effort";
  tenant.quota = {1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 13, 10, {"a", "b"}};
  tenant.is_operator = true;
  tenant.no_store = true;
  EXPECT_EQ(op.create_tenant(tenant), "pl-first");
  op.set_quota("globex", {.requests_per_second = 0.5, .kv_bytes = 5ULL << 32});
  op.set_tier("globex", "guaranteed");
  op.set_no_store("globex", true);
  op.set_no_store("globex", false);
  op.suspend("globex", true);
  op.suspend("globex", false);
  EXPECT_EQ(op.rotate_key("globex", 2h), "pl-second");
  EXPECT_THAT(administration_.asked(),
              ElementsAre("create_tenant globex", "set_quota globex", "set_tier globex",
                          "set_no_store globex", "set_no_store globex off", "suspend globex",
                          "resume globex", "rotate_key globex 7200"));
  cluster::Tenant expected;
  expected.name = "globex";
  expected.tier = cluster::Tier::best_effort;
  expected.quota = {1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 13, 10, {"a", "b"}};
  expected.is_operator = true;
  expected.cache.no_store = true;
  EXPECT_THAT(administration_.created, ElementsAre(expected));
  cluster::Quota quota;
  quota.requests_per_second = 0.5;
  quota.kv_bytes = 5ULL << 32;
  EXPECT_THAT(administration_.quotas, ElementsAre(quota));
  EXPECT_THAT(administration_.tiers, ElementsAre(cluster::Tier::guaranteed));
}

TEST_F(RpcOperatorTest, Caches) {
  auto client = connect();
  client::Operator op(client);
  const auto caches = op.caches();
  ASSERT_EQ(caches.size(), 2U);
  const auto& a = caches[0];
  EXPECT_EQ(a.node, "node-a");
  EXPECT_FALSE(a.error);
  EXPECT_EQ(a.bytes, 3ULL << 29);
  EXPECT_EQ(a.limit_bytes, 4ULL << 30);
  EXPECT_EQ(a.buffered_bytes, 1U << 20);
  EXPECT_EQ(a.index_bytes, 2U << 20);
  EXPECT_EQ(a.table_bytes, 3U << 20);
  EXPECT_EQ(a.trouble, "");
  ASSERT_EQ(a.rows.size(), 2U);
  EXPECT_EQ(a.rows[0].tenant, "acme");
  EXPECT_EQ(a.rows[0].kind, "prefix");
  EXPECT_EQ(a.rows[0].quota_bytes, 1ULL << 30);
  EXPECT_EQ(a.rows[0].ttl, 24h);
  EXPECT_EQ(a.rows[0].entries, 4000U);
  EXPECT_EQ(a.rows[0].hits_total, 75U);
  EXPECT_EQ(a.rows[0].damaged_total, 4U);
  EXPECT_EQ(a.rows[1].kind, "embedding");
  EXPECT_EQ(a.rows[1].refused_total, 5U);
  EXPECT_EQ(a.rows[1].dropped_total, 6U);
  ASSERT_TRUE(caches[1].error);
  EXPECT_EQ(caches[1].error->code, "unavailable");
  EXPECT_EQ(op.caches("node-a").size(), 1U);
  EXPECT_EQ(op.purge_caches({.tenant = "acme"}).at(0).purged_entries, 12U);
  op.purge_caches({.all_tenants = true, .kind = "tokens", .older_than = 1h}, "node-a");
  op.set_cache_quota("acme", 5ULL << 32);
  op.set_cache_quota("acme", 0);
  op.set_cache_quota("acme", std::nullopt);
  op.set_cache_ttl("acme", "prefix", 0ms);
  op.set_cache_ttl("acme", "tokens", std::nullopt);
  op.set_default_cache_ttl("embedding", 1h);
  op.set_default_cache_ttl("embedding", std::nullopt, "node-a");
  EXPECT_THAT(
      administration_.asked(),
      ElementsAre("look_at_caches", "look_at_caches at node-a", "purge_caches acme 0",
                  "purge_caches all tokens 3600000 at node-a", "set_cache_quota acme 21474836480",
                  "set_cache_quota acme 0", "set_cache_quota acme default",
                  "set_cache_ttl acme prefix 0", "set_cache_ttl acme tokens default",
                  "set_default_cache_ttl embedding 3600000",
                  "set_default_cache_ttl embedding default at node-a"));
  const auto code_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const client::Error& error) {
      return error.code;
    }
    return "none";
  };
  EXPECT_EQ(code_of([&] { op.purge_caches({}); }), "invalid_argument") << "of whom?";
  EXPECT_EQ(code_of([&] { op.purge_caches({.tenant = "a", .all_tenants = true}); }),
            "invalid_argument");
  EXPECT_EQ(code_of([&] { op.purge_caches({.tenant = "a", .kind = "weights"}); }),
            "invalid_argument");
  EXPECT_EQ(code_of([&] { op.set_cache_ttl("", "prefix", 1h); }), "invalid_argument");
  EXPECT_EQ(administration_.asked().size(), 11U) << "none of these was asked for";
}

TEST_F(RpcOperatorTest, Usage) {
  auto client = connect();
  const auto usage = client::Operator(client).usage();
  ASSERT_EQ(usage.size(), 3U);
  EXPECT_EQ(usage[0].tenant, "(idle)");
  EXPECT_EQ(usage[0].weights_byte_seconds, 9e12);
  EXPECT_EQ(usage[1].tenant, "acme");
  EXPECT_EQ(usage[1].requests, 1000U);
  EXPECT_EQ(usage[1].prompt_tokens, 20'000'000'000U);
  EXPECT_EQ(usage[1].cached_tokens, 5000U);
  EXPECT_EQ(usage[1].generated_tokens, 70'000U);
  EXPECT_EQ(usage[1].kv_byte_seconds, 1.5e12);
  EXPECT_EQ(usage[1].cache_byte_seconds, 3e12);
  EXPECT_EQ(usage[1].weights_byte_seconds, 6e12);
  EXPECT_EQ(usage[1].rejections,
            (std::map<std::string, std::uint64_t>{{"tenant_rate", 3}, {"tenant_sequences", 14}}));
  EXPECT_EQ(usage[2].tenant, "ops");
}

TEST_F(RpcOperatorTest, Models) {
  auto client = connect();
  client::Operator op(client);
  const auto models = op.models();
  ASSERT_EQ(models.size(), 1U);
  EXPECT_EQ(models[0].name, "llama");
  EXPECT_EQ(models[0].version, "llama@12ab");
  EXPECT_EQ(models[0].source, "/models/llama.gguf");
  ASSERT_EQ(models[0].replicas.size(), 2U);
  EXPECT_EQ(models[0].replicas[1].node, "node-b");
  EXPECT_EQ(models[0].replicas[1].state, "failed");
  EXPECT_EQ(models[0].replicas[1].reason, "no such file");
  op.load_model("m", "/m.gguf", {"node-a", "node-b"});
  op.load_model("m", "/m.gguf", {});
  op.unload_model("m");
  op.place_model("m", {"node-b"});
  EXPECT_THAT(administration_.asked(),
              ElementsAre("models", "load_model m /m.gguf node-a node-b", "load_model m /m.gguf",
                          "unload_model m", "place_model m node-b"));
}

// Every call, so that none is forgotten.
std::vector<std::function<void(client::Operator&)>> every_call() {
  using Op = client::Operator;
  return {[](Op& op) { op.cordon("n", true); },
          [](Op& op) { op.drain("n", 1s); },
          [](Op& op) { op.remove("n", true); },
          [](Op& op) { op.rebalance(false); },
          [](Op& op) { op.create_join_token(1s); },
          [](Op& op) { op.join_tokens(); },
          [](Op& op) { op.revoke_join_token("t"); },
          [](Op& op) { op.tenants(); },
          [](Op& op) { op.tenant("t"); },
          [](Op& op) { op.create_tenant({}); },
          [](Op& op) { op.set_quota("t", {}); },
          [](Op& op) { op.set_tier("t", "standard"); },
          [](Op& op) { op.suspend("t", true); },
          [](Op& op) { op.rotate_key("t", 1s); },
          [](Op& op) { op.usage(); },
          [](Op& op) { op.models(); },
          [](Op& op) { op.load_model("m", "s", {}); },
          [](Op& op) { op.unload_model("m"); },
          [](Op& op) { op.place_model("m", {}); }};
}

TEST_F(RpcOperatorTest, ATenantsKeyCanDoNothing) {
  auto client = connect("tenant");
  client::Operator op(client);
  auto calls = every_call();
  calls.emplace_back([](client::Operator& o) { o.view(); });
  for (const auto& call : calls) {
    EXPECT_EQ(error_of([&] { call(op); }).code, "permission_denied");
  }
  EXPECT_TRUE(administration_.asked().empty());
}

TEST_F(RpcOperatorTest, ErrorsAndExceptionsOfTheClusterReachTheCaller) {
  auto client = connect();
  client::Operator op(client);
  administration_.fail_with(
      Error(ErrorCode::failed_precondition, "drain it first").with_reason("live").retry_after(7));
  for (const auto& call : every_call()) {
    const auto error = error_of([&] { call(op); });
    EXPECT_EQ(error.code, "failed_precondition");
    EXPECT_STREQ(error.what(), "drain it first");
    EXPECT_EQ(error.reason, "live");
    EXPECT_EQ(error.retry_after_ms, 7U);
  }
  administration_.fail_with(std::nullopt);
  administration_.throw_next();
  const auto thrown = error_of([&] { op.view(); });
  EXPECT_EQ(thrown.code, "internal");
  EXPECT_THAT(thrown.what(), HasSubstr("thrown by the fake"));
  EXPECT_EQ(op.view().nodes.size(), 2U) << "the thread goes on";
}

TEST_F(RpcOperatorTest, BadInputIsRefusedBeforeTheClusterSeesIt) {
  auto client = connect();
  client::Operator op(client);
  EXPECT_EQ(error_of([&] { op.set_tier("t", "golden"); }).code, "invalid_argument");
  for (const double rate : {-1.0, std::nan(""), HUGE_VAL}) {
    client::Quota quota;
    quota.generated_tokens_per_second = rate;
    const auto error = error_of([&] { op.set_quota("t", quota); });
    EXPECT_EQ(error.code, "invalid_argument");
    EXPECT_THAT(error.what(), HasSubstr("generatedTokensPerSecond"));
  }
  EXPECT_TRUE(administration_.asked().empty());
}

TEST_F(RpcOperatorTest, AServerWithoutAClusterSaysSo) {
  frontend_.administrator = nullptr;
  auto client = connect();
  EXPECT_EQ(error_of([&] { client::Operator(client).view(); }).code, "unsupported");
}

TEST_F(RpcOperatorTest, ARevokedKeyLosesItsRightsOnAnOpenConnection) {
  auto client = connect("admin");
  client::Operator op(client);
  op.tenants();
  administration_.hold("rebalance");
  auto running = std::async(std::launch::async, [&] { return op.rebalance(true).size(); });
  administration_.wait_for("rebalance dry");
  frontend_.revoke("admin");
  administration_.release();
  EXPECT_EQ(running.get(), 1U) << "what was begun ends";
  EXPECT_EQ(error_of([&] { op.tenants(); }).code, "unauthenticated");
  EXPECT_EQ(error_of([&] { client.status(); }).code, "unauthenticated");
}

TEST_F(RpcOperatorTest, ABlockingCallStallsNeitherTokensNorOtherOperators) {
  auto client = connect();
  administration_.hold("drain");
  auto drained = std::async(std::launch::async, [&] {
    auto own = connect();
    return client::Operator(own).drain("node-a", 1h).finished;
  });
  administration_.wait_for("drain node-a 3600000");
  client::GenerateRequest request;
  request.model = "fake";
  request.prompt = "hello";
  request.max_tokens = 500;
  EXPECT_EQ(client.generate(request).usage.completion_tokens, 500U);
  EXPECT_EQ(client::Operator(client).view().nodes.size(), 2U) << "beside a drain";

  EXPECT_EQ(drained.wait_for(0s), std::future_status::timeout);
  administration_.release();
  EXPECT_EQ(drained.get(), 9U);
}

TEST_F(RpcOperatorTest, TheQueueIsBounded) {
  administration_.hold("tenants");
  std::vector<std::future<std::string>> calls;
  auto client = connect();
  const auto list = [&client] {
    return error_of([&] { client::Operator(client).tenants(); }).code;
  };
  calls.push_back(std::async(std::launch::async, list));
  administration_.wait_for("tenants");
  for (int i = 1; i < 40; ++i) calls.push_back(std::async(std::launch::async, list));
  // One runs and 32 wait; the others are refused at once.
  const auto refused = [&] {
    return std::ranges::count_if(
        calls, [](auto& call) { return call.wait_for(0s) == std::future_status::ready; });
  };
  for (int i = 0; i < 3000 && refused() < 7; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(refused(), 7);
  administration_.release();
  int exhausted = 0;
  for (auto& call : calls) exhausted += call.get() == "resource_exhausted" ? 1 : 0;
  EXPECT_EQ(exhausted, 7);
}

TEST_F(RpcOperatorTest, StoppingWaitsForTheCallAndDropsWhatWaits) {
  administration_.hold("tenants");
  std::vector<std::future<std::string>> calls;
  auto client = connect();
  for (int i = 0; i < 3; ++i) {
    calls.push_back(std::async(std::launch::async, [&] {
      return error_of([&] { client::Operator(client).tenants(); }).code;
    }));
  }
  administration_.wait_for("tenants");
  auto stopped = std::async(std::launch::async, [&] { gateway_->stop(0ms); });
  for (auto& call : calls) EXPECT_EQ(call.get(), "unavailable");
  EXPECT_EQ(stopped.wait_for(0s), std::future_status::timeout) << "the call has not ended";
  administration_.release();
  stopped.get();
  EXPECT_THAT(administration_.asked(), ElementsAre("tenants"));
}

}  // namespace
}  // namespace plimsoll
