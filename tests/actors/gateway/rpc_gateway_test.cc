// The RPC gateway and the C++ SDK, over loopback, against a frontend without a cluster.
#include "actors/gateway/rpc_gateway.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "client/client.h"
#include "tests/actors/gateway/fake_frontend.h"

namespace plimsoll {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 500; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

class RpcGatewayTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.listen.port = 0;
    config_.connections = 8;
    auto started = RpcGateway::start(config_, frontend_, ledger_);
    ASSERT_TRUE(started) << started.error().message;
    gateway_ = std::move(*started);
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(gateway_->port()); }
  client::Client connect(const std::string& key = "") const {
    client::Options options;
    options.addresses = {address()};
    options.api_key = key;
    options.retry_ms = 0;
    return client::Client(options);
  }
  static client::GenerateRequest request(std::uint32_t tokens) {
    client::GenerateRequest request;
    request.model = "fake";
    request.prompt = "hello";
    request.max_tokens = tokens;
    return request;
  }

  Ledger ledger_;
  FakeFrontend frontend_;
  RpcConfig config_;
  std::unique_ptr<RpcGateway> gateway_;
};

TEST_F(RpcGatewayTest, StreamsEveryTokenInOrder) {
  auto client = connect();
  std::string streamed;
  const auto answer = client.generate(request(500), [&](const client::Delta& delta) {
    streamed += delta.text;
    return true;
  });
  std::string expected;
  for (int i = 0; i < 500; ++i) expected += "w" + std::to_string(i) + " ";
  EXPECT_EQ(streamed, expected);
  EXPECT_EQ(answer.choices.at(0).text, expected);
  EXPECT_EQ(answer.choices.at(0).finish_reason, "length");
  EXPECT_EQ(answer.usage.completion_tokens, 500U);
}

TEST_F(RpcGatewayTest, ReturningFalseCancelsOnTheServer) {
  auto client = connect();
  int seen = 0;
  const auto answer =
      client.generate(request(1'000'000), [&](const client::Delta&) { return ++seen < 5; });
  EXPECT_EQ(answer.choices.at(0).finish_reason, "cancelled");
  EXPECT_TRUE(eventually([&] { return frontend_.running == 0; }));
  EXPECT_EQ(frontend_.cancelled, 1);
}

TEST_F(RpcGatewayTest, AStopTokenCancelsFromAnotherThread) {
  auto client = connect();
  frontend_.token_delay_us = 1000;
  std::stop_source source;
  std::jthread stopper([&] {
    std::this_thread::sleep_for(50ms);
    source.request_stop();
  });
  const auto start = std::chrono::steady_clock::now();
  client.generate(request(1'000'000), {}, source.get_token());
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
  EXPECT_TRUE(eventually([&] { return frontend_.running == 0; }));
  // The same client goes on to work, and a token that was stopped before stops at once.
  frontend_.token_delay_us = 0;
  EXPECT_EQ(client.generate(request(3)).usage.completion_tokens, 3U);
  const auto stopped = client.generate(request(1'000'000), {}, source.get_token());
  EXPECT_EQ(stopped.choices.at(0).finish_reason, "cancelled");
}

TEST_F(RpcGatewayTest, AnExceptionInTheCallbackReachesTheCaller) {
  auto client = connect();
  EXPECT_THROW(
      client.generate(request(1'000'000),
                      [](const client::Delta&) -> bool { throw std::range_error("mine"); }),
      std::range_error);
  EXPECT_TRUE(eventually([&] { return frontend_.running == 0; }));
}

TEST_F(RpcGatewayTest, ASlowReaderBoundsWhatIsSentAhead) {
  auto client = connect();
  int seen = 0;
  client.generate(request(5000), [&](const client::Delta&) {
    if (++seen < 20) std::this_thread::sleep_for(10ms);
    return true;
  });
  EXPECT_EQ(seen, 5000);
  EXPECT_LE(frontend_.most_ahead, FakeFrontend::window);
}

TEST_F(RpcGatewayTest, ErrorsAreTyped) {
  auto client = connect();
  auto unknown = request(1);
  unknown.model = "nothing";
  try {
    client.generate(unknown);
    FAIL();
  } catch (const client::Error& e) {
    EXPECT_EQ(e.code, "not_found");
    EXPECT_THAT(e.what(), HasSubstr("'nothing'"));
  }
  client::GenerateRequest both = request(1);
  both.messages = {{"user", "hi"}};
  EXPECT_THROW(client.generate(both), client::Error);
  try {
    connect("wrong");
    FAIL();
  } catch (const client::Error& e) {
    EXPECT_EQ(e.code, "unauthenticated");
  }
}

TEST_F(RpcGatewayTest, OnlyAnOperatorSeesStatusAndMemory) {
  auto op = connect();
  EXPECT_EQ(op.status().nodes.at(0).name, "node-1");
  EXPECT_GT(op.memory().rss_bytes, 0U);
  auto tenant = connect("tenant");
  EXPECT_EQ(tenant.models().at(0).name, "fake");
  try {
    tenant.memory();
    FAIL();
  } catch (const client::Error& e) {
    EXPECT_EQ(e.code, "permission_denied");
  }
}

TEST_F(RpcGatewayTest, Embeds) {
  auto client = connect();
  const auto answer = client.embed("fake", {"a", "b"});
  ASSERT_EQ(answer.vectors.size(), 2U);
  EXPECT_EQ(answer.vectors[1], (std::vector<float>{1.0F, 1.0F}));
  EXPECT_EQ(answer.prompt_tokens, 2U);
  EXPECT_EQ(answer.cached_tokens, 1U);
}

TEST_F(RpcGatewayTest, WhatShallNotBeStoredSaysSo) {
  auto client = connect();
  auto secret = request(1);
  client.generate(secret);
  secret.no_store = true;
  client.generate(secret);
  client.embed("fake", {"a"});
  client.embed("fake", {"a"}, {.no_store = true});
  const auto generated = frontend_.requests();
  ASSERT_EQ(generated.size(), 2U);
  EXPECT_FALSE(generated[0].no_store);
  EXPECT_TRUE(generated[1].no_store);
  const auto embedded = frontend_.embed_requests();
  ASSERT_EQ(embedded.size(), 2U);
  EXPECT_FALSE(embedded[0].no_store);
  EXPECT_TRUE(embedded[1].no_store);
}

TEST_F(RpcGatewayTest, ALostConnectionCancelsItsCalls) {
  frontend_.token_delay_us = 500;
  {
    auto client = std::make_unique<client::Client>(connect());
    std::stop_source source;
    std::jthread call([&] {
      try {
        client->generate(request(1'000'000), {}, source.get_token());
      } catch (const client::Error&) {
      }
    });
    EXPECT_TRUE(eventually([&] { return frontend_.running == 1; }));
    source.request_stop();
  }
  EXPECT_TRUE(eventually([&] { return frontend_.running == 0; }));
}

TEST_F(RpcGatewayTest, GarbageAndTooManyConnectionsHurtNobody) {
  std::vector<int> sockets;
  for (int i = 0; i < 20; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(gateway_->port());
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    const std::string junk(100, static_cast<char>(i * 37));
    [[maybe_unused]] const auto sent = send(fd, junk.data(), junk.size(), MSG_NOSIGNAL);
    sockets.push_back(fd);
  }
  for (const int fd : sockets) close(fd);
  EXPECT_TRUE(eventually([&] {
    try {
      return connect().generate(request(2)).usage.completion_tokens == 2;
    } catch (const client::Error&) {
      return false;  // the limit of connections, until the others are gone
    }
  }));
}

TEST_F(RpcGatewayTest, ATenantThatOpensAllConnectionsLeavesSomeToOthers) {
  std::vector<client::Client> greedy;
  for (int i = 0; i < 6; ++i) {
    greedy.push_back(connect("greedy"));
    ASSERT_EQ(greedy.back().generate(request(1)).usage.completion_tokens, 1U);
  }
  for (int i = 0; i < 100; ++i) {
    try {
      connect("greedy").generate(request(1));
      FAIL() << "of 8 it got its " << i + 7;
    } catch (const client::Error& e) {
      ASSERT_EQ(e.code, "resource_exhausted");
      EXPECT_EQ(e.reason, "tenant_connections");
      EXPECT_EQ(e.retry_after_ms, 1000U);
    }
  }
  EXPECT_EQ(connect("modest").generate(request(1)).usage.completion_tokens, 1U);
  EXPECT_EQ(greedy.front().generate(request(1)).usage.completion_tokens, 1U) << "it has its place";
  greedy.clear();
  EXPECT_TRUE(eventually([&] {
    try {
      return connect("greedy").generate(request(1)).usage.completion_tokens == 1;
    } catch (const client::Error&) {
      return false;
    }
  }));
}

TEST_F(RpcGatewayTest, StoppingLetsCallsEndWithinTheDeadlineAndCutsTheRest) {
  frontend_.token_delay_us = 1000;
  std::jthread quick([&] {
    auto client = connect();
    EXPECT_EQ(client.generate(request(100)).usage.completion_tokens, 100U);
  });
  std::jthread endless([&] {
    auto client = connect();
    try {
      client.generate(request(1'000'000));
      ADD_FAILURE() << "ended by itself";
    } catch (const client::Error& e) {
      EXPECT_EQ(e.code, "unavailable");
    }
  });
  EXPECT_TRUE(eventually([&] { return frontend_.running == 2; }));
  const auto start = std::chrono::steady_clock::now();
  gateway_->stop(1s);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  quick.join();
  endless.join();
  EXPECT_TRUE(eventually([&] { return frontend_.running == 0; }));
  const auto rows = ledger_.snapshot();
  for (const auto& row : rows) EXPECT_EQ(row.bytes, 0) << to_string(row.component);
}

TEST_F(RpcGatewayTest, ReconnectsAfterTheServerCameBack) {
  auto client = connect();
  config_.listen.port = gateway_->port();
  gateway_.reset();
  EXPECT_THROW(client.models(), client::Error);
  auto again = RpcGateway::start(config_, frontend_, ledger_);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(eventually([&] {
    try {
      return !client.models().empty();
    } catch (const client::Error&) {
      return false;
    }
  }));
}

// A key and a certificate for localhost that signs itself.
class TlsFiles {
 public:
  TlsFiles() {
    std::string pattern = (std::filesystem::temp_directory_path() / "plimsoll-tls-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    const std::string command =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout " +
        key().string() + " -out " + certificate().string() + " 2>/dev/null";
    made = std::system(command.c_str()) == 0;
  }
  ~TlsFiles() { std::filesystem::remove_all(folder_); }
  std::filesystem::path key() const { return folder_ / "key.pem"; }
  std::filesystem::path certificate() const { return folder_ / "cert.pem"; }
  bool made = false;

 private:
  std::filesystem::path folder_;
};

TEST_F(RpcGatewayTest, TlsIsCheckedBothForTheAuthorityAndTheName) {
  const TlsFiles files;
  ASSERT_TRUE(files.made) << "needs the openssl command";
  RpcConfig config = config_;
  config.listen.tls_certificate = files.certificate();
  config.listen.tls_key = files.key();
  auto gateway = RpcGateway::start(config, frontend_, ledger_);
  ASSERT_TRUE(gateway) << gateway.error().message;
  const std::string port = std::to_string((*gateway)->port());
  client::Options options;
  options.addresses = {"localhost:" + port};
  options.ca_file = files.certificate().string();
  options.connect_timeout_ms = 2000;
  options.retry_ms = 0;
  EXPECT_EQ(client::Client(options).generate(request(5)).usage.completion_tokens, 5U);

  client::Options other_name = options;
  other_name.addresses = {"127.0.0.1:" + port};
  EXPECT_THROW(client::Client{other_name}, client::Error);
  const TlsFiles strangers;
  client::Options other_authority = options;
  other_authority.ca_file = strangers.certificate().string();
  EXPECT_THROW(client::Client{other_authority}, client::Error);
  client::Options plain = options;
  plain.ca_file = "";
  EXPECT_THROW(client::Client{plain}, client::Error);
  EXPECT_EQ(client::Client(options).models().size(), 1U) << "the server goes on";
}

TEST_F(RpcGatewayTest, RefusesAddressesThatItMayNotOrCannotUse) {
  RpcConfig open = config_;
  open.listen.host = "0.0.0.0";
  EXPECT_EQ(RpcGateway::start(open, frontend_, ledger_).error().code, ErrorCode::invalid_argument);
  RpcConfig taken = config_;
  taken.listen.port = gateway_->port();
  EXPECT_EQ(RpcGateway::start(taken, frontend_, ledger_).error().code, ErrorCode::unavailable);
  RpcConfig half = config_;
  half.listen.tls_certificate = "/no/such/file";
  EXPECT_EQ(RpcGateway::start(half, frontend_, ledger_).error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace plimsoll
