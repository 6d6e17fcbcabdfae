#include "cli/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace plimsoll::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class ConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "plimsoll-config-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    std::ofstream(folder_ / "model.gguf") << "x";
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& text) {
    const auto file = folder_ / "plimsoll.yaml";
    std::ofstream(file) << text;
    return file;
  }
  // The message that loading `text` fails with.
  std::string refusal(const std::string& text) {
    Config config;
    const auto loaded = load_config(write(text), config);
    return loaded ? "it was accepted" : loaded.error().message;
  }

  fs::path folder_;
};

TEST_F(ConfigTest, ReadsEveryKindOfValue) {
  Config config;
  const auto loaded = load_config(write(R"(
http:
  listen: 127.0.0.1:9000
  idle_timeout: 2m
engine:
  kv_memory: 2GiB
  kv_type: int4
  max_batch: 12
  prefix_sharing: false
  speculation: off
models:
  - {name: tiny, path: /some/where.gguf, compute: float32}
tenants:
  - name: acme
    api_key_sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    operator: true
    tier: guaranteed
    suspended: true
    requests_per_second: 1.5
    burst: 500ms
    sequences: 7
    kv_memory: 1GiB
    deadline: 30s
    generated_tokens: none
    models: [tiny, small]
    cache: no-store
tiers:
  standard: {prompt_tokens: 4096, deadline: 60s}
  best-effort:
    generated_tokens: 256
    request_tokens: 2048
)"),
                                  config);
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto& server = config.server;
  EXPECT_EQ(server.http.listen.port, 9000);
  EXPECT_EQ(server.http.idle_timeout, std::chrono::minutes(2));
  EXPECT_EQ(server.engine.kv_bytes, 2_GiB);
  EXPECT_EQ(server.engine.kv_type, KvType::int4);
  EXPECT_EQ(server.engine.max_batch, 12U);
  EXPECT_FALSE(server.engine.prefix_sharing);
  EXPECT_FALSE(server.engine.speculation);
  ASSERT_EQ(server.models.size(), 1U);
  EXPECT_EQ(server.models[0].compute, ComputeMode::float32);
  ASSERT_EQ(server.tenants.size(), 1U);
  const auto& tenant = server.tenants[0];
  EXPECT_TRUE(tenant.is_operator);
  EXPECT_TRUE(tenant.suspended);
  EXPECT_TRUE(tenant.cache.no_store);
  EXPECT_EQ(tenant.tier, cluster::Tier::guaranteed);
  const cluster::Quota expected{.requests_per_second = 1.5,
                                .burst_seconds = 0.5,
                                .sequences = 7,
                                .kv_bytes = 1_GiB,
                                .deadline_ms = 30'000,
                                .models = {"tiny", "small"}};
  EXPECT_EQ(tenant.quota, expected);
  EXPECT_EQ(server.tiers[0], cluster::RequestCaps{});
  EXPECT_EQ(server.tiers[1], (cluster::RequestCaps{.prompt_tokens = 4096, .deadline_ms = 60'000}));
  EXPECT_EQ(server.tiers[2],
            (cluster::RequestCaps{.generated_tokens = 256, .request_tokens = 2048}));
}

TEST_F(ConfigTest, NamesFileLineAndKeyOfAMistake) {
  EXPECT_THAT(refusal("http:\n  listen: 127.0.0.1:9000\n  porridge: 1\n"),
              HasSubstr("plimsoll.yaml:3: http.porridge: is not a known key"));
  EXPECT_THAT(refusal("engine:\n  max_batch: many\n"),
              HasSubstr(":2: engine.max_batch: 'many' is not a whole number from 1 to 4096"));
  EXPECT_THAT(refusal("engine:\n  max_batch: 0\n"), HasSubstr("not a whole number from 1"));
  EXPECT_THAT(refusal("engine:\n  kv_memory: 12 parsecs\n"), HasSubstr("write it like 512MiB"));
  EXPECT_THAT(refusal("engine:\n  kv_memory: 99999999999999GiB\n"), HasSubstr("write it like"));
  EXPECT_THAT(refusal("engine:\n  kv_memory: rest\n"), HasSubstr("write it like 512MiB"));
  EXPECT_THAT(refusal("http: 5\n"), HasSubstr(":1: http: must be a mapping"));
  EXPECT_THAT(refusal("http:\n  listen: [1]\n"), HasSubstr("must be a single value"));
  EXPECT_THAT(refusal("http:\n  listen: nowhere\n"), HasSubstr("'nowhere' is not HOST:PORT"));
  EXPECT_THAT(refusal("http:\n  listen: 127.0.0.1:99999\n"), HasSubstr("from 0 to 65535"));
  EXPECT_THAT(refusal("log_level: info\nlog_level: debug\n"), HasSubstr("is given twice"));
  EXPECT_THAT(refusal("engine:\n  kv_type: int5\n"),
              HasSubstr(":2: engine.kv_type: 'int5' is none of bf16, f16, int8, int4"));
  EXPECT_THAT(refusal("a: [1, 2\n"), HasSubstr("plimsoll.yaml:"));
}

TEST_F(ConfigTest, RefusesBadTenants) {
  EXPECT_THAT(refusal("tenants:\n  - name: UPPER\n"), HasSubstr(":2: tenants.name"));
  EXPECT_THAT(refusal("tenants:\n  - name: shared\n"), HasSubstr("reserved"));
  EXPECT_THAT(refusal("tenants:\n  - name: a\n  - name: a\n"), HasSubstr("there twice"));
  EXPECT_THAT(refusal("tenants:\n  - name: a\n    api_key_sha256: secret\n"),
              HasSubstr("64 lower-case hexadecimal digits"));
  const std::string head = "tenants:\n  - name: a\n    ";
  EXPECT_THAT(refusal(head + "kv_memory: lots\n"), HasSubstr(":3: tenants.kv_memory: 'lots'"));
  EXPECT_THAT(refusal(head + "sequences: none\n"), HasSubstr("'none' is not a whole number, 1"));
  EXPECT_THAT(refusal(head + "burst: 0s\n"), HasSubstr(":3: tenants.burst: must be more than 0"));
  EXPECT_THAT(refusal(head + "tier: gold\n"), HasSubstr("none of guaranteed, standard"));
  EXPECT_THAT(refusal(head + "deadline: [1s]\n"), HasSubstr("must be a single value"));
  EXPECT_THAT(refusal(head + "models: [[m]]\n"), HasSubstr("or a list of such"));
  EXPECT_THAT(refusal(head + "models: ['a b']\n"), HasSubstr(":2: tenants.models: models are"));
  EXPECT_THAT(refusal(head + "requests_per_minute: 90\n"), HasSubstr("is not a known key"));
}

TEST_F(ConfigTest, SaysWhatOfATenantMayLieOnDisks) {
  const auto policy_of = [&](const std::string& cache) {
    Config config;
    const auto loaded = load_config(write("tenants:\n  - name: a\n    cache: " + cache), config);
    EXPECT_TRUE(loaded) << loaded.error().message;
    return loaded ? config.server.tenants.at(0).cache : cluster::CachePolicy{};
  };
  EXPECT_EQ(policy_of("default"), cluster::CachePolicy{});
  EXPECT_EQ(policy_of("no-store"), cluster::CachePolicy{.no_store = true});
  EXPECT_EQ(policy_of("{store: false}"), cluster::CachePolicy{.no_store = true});
  EXPECT_EQ(policy_of("{store: true, bytes: default, ttl: {tokens: default}}"),
            cluster::CachePolicy{});
  EXPECT_EQ(policy_of(R"(
      bytes: 2GiB
      ttl: {prefix: 1h, embedding: 168h}
)"),
            (cluster::CachePolicy{false, 2_GiB, {{3'600'000U, 168U * 3'600'000U, {}}}}));
  EXPECT_EQ(policy_of("{bytes: 0, ttl: 0s}"), (cluster::CachePolicy{false, 0, {{0U, 0U, 0U}}}));
}

TEST_F(ConfigTest, RefusesWhatMakesNoSenseOfATenantsCache) {
  const std::string head = "tenants:\n  - name: a\n    cache:";
  EXPECT_THAT(refusal(head + " never\n"),
              HasSubstr(":3: tenants.cache: 'never' is none of default, no-store, nor a mapping"));
  EXPECT_THAT(refusal(head + " [no-store]\n"), HasSubstr("tenants.cache: must be a single value"));
  EXPECT_THAT(refusal(head + "\n      store: no\n"),
              HasSubstr(":4: tenants.cache.store: must be true or false"));
  EXPECT_THAT(refusal(head + "\n      bytes: lots\n    tier: gold\n"),
              HasSubstr(":4: tenants.cache.bytes: 'lots'"));
  EXPECT_THAT(refusal(head + "\n      quota: 1GiB\n"),
              HasSubstr(":4: tenants.cache.quota: is not a known key"));
  EXPECT_THAT(refusal(head + " {ttl: soon}\n"), HasSubstr("tenants.cache.ttl: 'soon'"));
  EXPECT_THAT(refusal(head + "\n      ttl:\n        tokens: 721h\n      bytes: lots\n"),
              HasSubstr(":5: tenants.cache.ttl.tokens: '721h' is over 30 days"));
  EXPECT_THAT(refusal(head + " {ttl: {vectors: 1h}}\n"),
              HasSubstr("tenants.cache.ttl.vectors: is not a known key"));
  EXPECT_THAT(refusal(head + " {ttl: {prefix: [1h]}}\n"), HasSubstr("must be a single value"));
  EXPECT_THAT(refusal(head + " {bytes: 1GiB, bytes: 2GiB}\n"), HasSubstr("is given twice"));
}

TEST_F(ConfigTest, RefusesBadTiers) {
  EXPECT_THAT(refusal("tiers:\n  gold: {deadline: 1s}\n"),
              HasSubstr(":2: tiers: 'gold' is none of guaranteed, standard"));
  EXPECT_THAT(refusal("tiers:\n  standard:\n    kv_memory: 1GiB\n"),
              HasSubstr(":3: tiers.standard.kv_memory: is not a known key"));
  EXPECT_THAT(refusal("tiers:\n  standard: {prompt_tokens: few}\n"),
              HasSubstr(":2: tiers.standard.prompt_tokens: 'few' is not a whole number"));
  EXPECT_THAT(refusal("tiers:\n  standard: 5\n"), HasSubstr("must be a mapping"));
}

TEST_F(ConfigTest, BeyondLoopbackNeedsTlsAndKeys) {
  Config config;
  config.server.models = {{"m", folder_ / "model.gguf", ComputeMode::automatic}};
  ASSERT_TRUE(complete_config(config));
  config.server.http.listen.host = "0.0.0.0";
  EXPECT_FALSE(complete_config(config));
  config.server.http.listen.tls_certificate = "cert.pem";
  config.server.http.listen.tls_key = "key.pem";
  EXPECT_FALSE(complete_config(config)) << "TLS without keys lets anyone in";
  config.server.tenants = {{.name = "a", .keys = {{std::string(64, 'a')}}}};
  EXPECT_TRUE(complete_config(config));
}

TEST_F(ConfigTest, AHostThatOnlyLooksLikeLoopbackNeedsCertificates) {
  for (const char* host : {"127.evil.example", "10.0.0.1", "0.0.0.0"}) {
    Config config;
    config.server.models = {{"m", folder_ / "model.gguf", ComputeMode::automatic}};
    config.cluster_listen = {host, 8090, {}, {}};
    EXPECT_THAT(complete_config(config).error().message, HasSubstr("cluster.ca_file")) << host;
    config.cluster_listen = {"", 0, {}, {}};
    config.server.cluster.join = {std::string(host) + ":8090"};
    EXPECT_THAT(complete_config(config).error().message, HasSubstr("cluster.ca_file")) << host;
  }
}

TEST_F(ConfigTest, WhatIsShownReadsBackTheSame) {
  Config config;
  config.server.engine.kv_bytes = 3_GiB;
  config.server.tiers[2] = {.request_tokens = 99, .deadline_ms = 1500};
  config.server.http.write_timeout = std::chrono::milliseconds(1500);
  config.server.http.listen.host = "::1";
  config.server.models = {{"m", "/a/b.gguf", ComputeMode::int8}};
  config.server.cluster.etcd = {"https://a:2379", "https://b:2379"};
  config.server.cluster.etcd_prefix = "/blue/";
  config.state_directory = "/var/lib/plimsoll";
  config.join_token_file = "/run/token";
  config.server.tenants = {{.name = "a", .is_operator = true, .keys = {{std::string(64, 'a')}}},
                           {.name = "b",
                            .tier = cluster::Tier::best_effort,
                            .quota = {.requests_per_second = 1.0 / 3,
                                      .burst_seconds = 1.5,
                                      .cache_bytes = 3_MiB,
                                      .prompt_tokens = 5,
                                      .models = {"m", "n"}},
                            .suspended = true,
                            .cache = {true, 3_MiB, {{1'500U, {}, 0U}}}}};
  const std::string shown = show_config(config);
  Config again;
  const auto loaded = load_config(write(shown), again);
  ASSERT_TRUE(loaded) << loaded.error().message << "\n" << shown;
  EXPECT_EQ(show_config(again), shown);
  EXPECT_EQ(again.server.tenants, config.server.tenants);
  EXPECT_EQ(again.server.cluster.etcd, config.server.cluster.etcd);
}

TEST_F(ConfigTest, EveryRoleKnowsWhereItsStateIs) {
  setenv("XDG_STATE_HOME", "/states", 1);
  const auto directory = [&](Role role, const std::string& given, bool etcd = false) {
    Config config;
    config.server.role = role;
    config.server.models = {{"m", folder_ / "model.gguf", ComputeMode::automatic}};
    config.server.cluster.name = "n1";
    config.server.cluster.join = {"127.0.0.1:8090"};
    config.cluster_listen = {"127.0.0.1", 8090, {}, {}};
    if (etcd) config.server.cluster.etcd = {"http://127.0.0.1:2379"};
    config.state_directory = given;
    const auto done = complete_config(config);
    return done ? config.server.cluster.state_directory.string() : done.error().message;
  };
  EXPECT_EQ(directory(Role::router, auto_directory), "/states/plimsoll/router");
  EXPECT_EQ(directory(Role::node, auto_directory), "/states/plimsoll/node-n1");
  EXPECT_EQ(directory(Role::all, auto_directory), "");
  EXPECT_EQ(directory(Role::router, auto_directory, true), "") << "routers share theirs in etcd";
  EXPECT_EQ(directory(Role::router, ""), "");
  EXPECT_EQ(directory(Role::all, "/here"), "/here");
  setenv("XDG_STATE_HOME", "relative", 1);
  setenv("HOME", "/home/ada", 1);
  EXPECT_EQ(directory(Role::router, auto_directory), "/home/ada/.local/state/plimsoll/router");
  unsetenv("XDG_STATE_HOME");
  unsetenv("HOME");
  EXPECT_THAT(directory(Role::node, auto_directory), HasSubstr("no home folder"));
}

TEST_F(ConfigTest, AJoinTokenComesFromAFileThatNeedNotBeThere) {
  Config config;
  config.server.role = Role::node;
  config.server.models = {{"m", folder_ / "model.gguf", ComputeMode::automatic}};
  config.server.cluster.join = {"127.0.0.1:8090"};
  config.state_directory = "";
  config.join_token_file = folder_ / "token";
  ASSERT_TRUE(complete_config(config));
  EXPECT_EQ(config.server.cluster.join_token, "");
  std::ofstream(config.join_token_file) << "plj-abc\n";
  ASSERT_TRUE(complete_config(config));
  EXPECT_EQ(config.server.cluster.join_token, "plj-abc");
  EXPECT_THAT(show_config(config), Not(HasSubstr("plj-abc"))) << "the file's secret is shown";
  std::ofstream(config.join_token_file) << "\n";
  EXPECT_THAT(complete_config(config).error().message, HasSubstr("is empty"));
  config.join_token = "plj-abc";
  EXPECT_THAT(complete_config(config).error().message, HasSubstr("not both"));
}

TEST_F(ConfigTest, EtcdBeyondThisMachineNeedsTls) {
  const std::string head = "cluster:\n  etcd: ";
  EXPECT_THAT(refusal(head + "[http://10.0.0.1:2379]\n"), HasSubstr(":2: cluster.etcd: 'http://"));
  EXPECT_THAT(refusal(head + "http://127.evil.example:2379\n"), HasSubstr("use https"));
  EXPECT_THAT(refusal(head + "10.0.0.1:2379\n"), HasSubstr("is not https://HOST:PORT"));
  EXPECT_THAT(refusal(head + "https://10.0.0.1\n"), HasSubstr("is not https://HOST:PORT"));
  EXPECT_THAT(refusal(head + "[https://10.0.0.1:2379, 'http://[::1]:2379']\n"),
              HasSubstr("it was accepted"));
  EXPECT_THAT(refusal("cluster:\n  etcd_prefix: plimsoll\n"), HasSubstr("like /plimsoll/"));
  EXPECT_THAT(refusal("cluster:\n  name: a/../b\n"), HasSubstr(":2: cluster.name: a node's name"));
  EXPECT_THAT(refusal("cluster:\n  weight: 0\n"), HasSubstr("is not a number over 0"));
}

TEST_F(ConfigTest, EverySettingRoundTripsItsDefault) {
  for (const auto& setting : settings()) {
    Config config;
    const auto value = setting.get(config);
    EXPECT_TRUE(setting.set(config, value)) << setting.key << " = " << value;
    EXPECT_EQ(setting.get(config), value) << setting.key;
    EXPECT_FALSE(setting.help.empty()) << setting.key;
  }
}

TEST_F(ConfigTest, ModelsAreNamedByFileCatalogueOrBoth) {
  const auto file = (folder_ / "model.gguf").string();
  EXPECT_EQ(parse_model("x=" + file)->name, "x");
  EXPECT_EQ(parse_model(file)->name, "model");
  EXPECT_THAT(parse_model("no-such-model").error().message, HasSubstr("plimsoll pull"));
  Config config;
  config.server.models = {{"m", "/no/such/file", ComputeMode::automatic}};
  EXPECT_THAT(complete_config(config).error().message, HasSubstr("/no/such/file"));
}

}  // namespace
}  // namespace plimsoll::cli
