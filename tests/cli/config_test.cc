#include "cli/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace plimsoll::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

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
  kv_type: int8
  max_batch: 12
  prefix_sharing: false
models:
  - {name: tiny, path: /some/where.gguf, compute: float32}
tenants:
  - name: acme
    api_key_sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    operator: true
    max_sequences: 7
    requests_per_minute: 90
)"),
                                  config);
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto& server = config.server;
  EXPECT_EQ(server.http.listen.port, 9000);
  EXPECT_EQ(server.http.idle_timeout, std::chrono::minutes(2));
  EXPECT_EQ(server.engine.kv_bytes, 2_GiB);
  EXPECT_EQ(server.engine.kv_type, KvType::int8);
  EXPECT_EQ(server.engine.max_batch, 12U);
  EXPECT_FALSE(server.engine.prefix_sharing);
  ASSERT_EQ(server.models.size(), 1U);
  EXPECT_EQ(server.models[0].compute, ComputeMode::float32);
  ASSERT_EQ(server.tenants.size(), 1U);
  EXPECT_TRUE(server.tenants[0].is_operator);
  EXPECT_EQ(server.tenants[0].quota.sequences, 7U);
  EXPECT_EQ(server.tenants[0].quota.requests_per_second, 1.5);
}

TEST_F(ConfigTest, NamesFileLineAndKeyOfAMistake) {
  EXPECT_THAT(refusal("http:\n  listen: 127.0.0.1:9000\n  porridge: 1\n"),
              HasSubstr("plimsoll.yaml:3: http.porridge: is not a known key"));
  EXPECT_THAT(refusal("engine:\n  max_batch: many\n"),
              HasSubstr(":2: engine.max_batch: 'many' is not a whole number from 1 to 4096"));
  EXPECT_THAT(refusal("engine:\n  max_batch: 0\n"), HasSubstr("not a whole number from 1"));
  EXPECT_THAT(refusal("engine:\n  kv_memory: 12 parsecs\n"), HasSubstr("write it like 512MiB"));
  EXPECT_THAT(refusal("engine:\n  kv_memory: 99999999999999GiB\n"), HasSubstr("write it like"));
  EXPECT_THAT(refusal("http: 5\n"), HasSubstr(":1: http: must be a mapping"));
  EXPECT_THAT(refusal("http:\n  listen: [1]\n"), HasSubstr("must be a single value"));
  EXPECT_THAT(refusal("http:\n  listen: nowhere\n"), HasSubstr("'nowhere' is not HOST:PORT"));
  EXPECT_THAT(refusal("http:\n  listen: 127.0.0.1:99999\n"), HasSubstr("from 0 to 65535"));
  EXPECT_THAT(refusal("log_level: info\nlog_level: debug\n"), HasSubstr("is given twice"));
  EXPECT_THAT(refusal("a: [1, 2\n"), HasSubstr("plimsoll.yaml:"));
}

TEST_F(ConfigTest, RefusesBadTenants) {
  EXPECT_THAT(refusal("tenants:\n  - name: UPPER\n"), HasSubstr(":2: tenants.name"));
  EXPECT_THAT(refusal("tenants:\n  - name: shared\n"), HasSubstr("reserved"));
  EXPECT_THAT(refusal("tenants:\n  - name: a\n  - name: a\n"), HasSubstr("there twice"));
  EXPECT_THAT(refusal("tenants:\n  - name: a\n    api_key_sha256: secret\n"),
              HasSubstr("64 lower-case hexadecimal digits"));
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
  config.server.http.write_timeout = std::chrono::milliseconds(1500);
  config.server.http.listen.host = "::1";
  config.server.models = {{"m", "/a/b.gguf", ComputeMode::int8}};
  config.server.tenants = {{.name = "a", .is_operator = true, .keys = {{std::string(64, 'a')}}}};
  const std::string shown = show_config(config);
  Config again;
  const auto loaded = load_config(write(shown), again);
  ASSERT_TRUE(loaded) << loaded.error().message << "\n" << shown;
  EXPECT_EQ(show_config(again), shown);
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
