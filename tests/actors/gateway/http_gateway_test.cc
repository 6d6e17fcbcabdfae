// The HTTP gateway over loopback sockets, against a frontend without a cluster.
#include "actors/gateway/http_gateway.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/actors/gateway/fake_frontend.h"
#include "tests/actors/gateway/http_client.h"

namespace plimsoll {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using namespace std::chrono_literals;
using Client = TestHttpClient;
using Clock = std::chrono::steady_clock;

constexpr const char* chat_path = "/v1/chat/completions";
constexpr const char* completion_path = "/v1/completions";

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

std::string prompt(int tokens, bool stream = false, const std::string& model = "fake") {
  return R"({"model":")" + model + R"(","prompt":"x","max_tokens":)" + std::to_string(tokens) +
         (stream ? R"(,"stream":true})" : "}");
}

std::string error_code(const TestResponse& response) {
  const auto json = nlohmann::json::parse(response.body, nullptr, false);
  return json.is_object() && json.contains("error") ? json["error"]["code"].get<std::string>()
                                                    : "no error: " + response.body;
}

class HttpGatewayTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.listen.port = 0;
    config_.body_bytes = 100'000;
    config_.header_bytes = 4096;
    config_.header_timeout = 5s;
    config_.body_timeout = 5s;
  }
  void TearDown() override {
    if (!gateway_) return;
    gateway_->stop(0ms);
    EXPECT_TRUE(eventually([&] { return frontend_.running == 0; }));
    EXPECT_EQ(ledger_.total_bytes(MemoryKind::anonymous), 0);
  }

  void start() {
    auto started = HttpGateway::start(config_, frontend_, ledger_);
    ASSERT_TRUE(started) << started.error().message;
    gateway_ = std::move(*started);
  }
  std::uint16_t port() const { return gateway_->port(); }

  Ledger ledger_;
  FakeFrontend frontend_;
  HttpConfig config_;
  std::unique_ptr<HttpGateway> gateway_;
};

TEST_F(HttpGatewayTest, SmallEndpoints) {
  start();
  Client client(port());
  EXPECT_EQ(client.get("/health").status, 200);
  EXPECT_EQ(client.get("/ready").status, 200);
  EXPECT_THAT(client.get("/").body, HasSubstr("plimsoll"));
  EXPECT_THAT(client.get("/v1/models").body, HasSubstr(R"("id":"fake")"));
  EXPECT_THAT(client.get("/v1/models/fake?x=1").body, HasSubstr(R"("object":"model")"));
  const auto metrics = client.get("/metrics");
  EXPECT_THAT(metrics.body, HasSubstr("plimsoll_test 1\n"));
  EXPECT_THAT(metrics.body, HasSubstr("plimsoll_http_connections 1\n"));
  EXPECT_THAT(metrics.headers.at("content-type"), HasSubstr("version=0.0.4"));

  const auto page = client.get("/console");
  EXPECT_THAT(page.headers.at("content-type"), HasSubstr("text/html"));
  EXPECT_THAT(page.headers.at("content-security-policy"), HasSubstr("default-src 'none'"));
  EXPECT_THAT(page.headers.at("content-security-policy"), Not(HasSubstr("unsafe")));
  EXPECT_THAT(page.body, HasSubstr("</html>"));

  EXPECT_EQ(client.get("/v1/models/none").status, 404);
  EXPECT_EQ(client.get("/nowhere").status, 404);
  const auto wrong = client.get(chat_path);
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST, OPTIONS");
  EXPECT_EQ(client.post("/health", "{}").status, 405);  // its body was not read: the end
  EXPECT_TRUE(client.closed_within(2s));
}

TEST_F(HttpGatewayTest, OfLittleMemoryBodiesGetLittle) {
  frontend_.memory_bytes = 600'000;
  start();
  // A tenant may have half, and a body is there up to three times while it is read.
  const auto large = Client(port()).post(completion_path, std::string(100'000, ' '));
  EXPECT_EQ(large.status, 400) << "it was read";
  const auto larger = Client(port()).post(completion_path, std::string(100'001, ' '));
  EXPECT_EQ(larger.status, 413);
  std::string body = R"({"model":"fake","prompt":[1)";
  for (int i = 0; i < 20'000; ++i) body += ",1";
  EXPECT_TRUE(eventually([&] { return frontend_.request_memory().held_bytes() == 0; }));
  const auto many = Client(port()).post(completion_path, body + "]}");
  EXPECT_EQ(many.status, 429);
  EXPECT_EQ(error_code(many), "request_memory");
  EXPECT_FALSE(many.headers.contains("retry-after")) << "it never fits";
  EXPECT_EQ(Client(port()).post(completion_path, prompt(1)).status, 200);
}

TEST_F(HttpGatewayTest, UnderPressureNoBodyIsRead) {
  start();
  Client client(port());
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer squeezed\r\n"
      "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n");
  const auto refused = client.read_response();
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
}

TEST_F(HttpGatewayTest, HeadAndOptions) {
  start();
  Client client(port());
  client.send("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto head = client.read_response(true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "15");
  client.send("OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 204);
  EXPECT_EQ(client.get("/health").status, 200);
}

TEST_F(HttpGatewayTest, ReadyFollowsTheCluster) {
  start();
  frontend_.is_ready = false;
  Client client(port());
  const auto response = client.get("/ready");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.headers.at("retry-after"), "1");
  EXPECT_EQ(client.get("/health").status, 200);
}

TEST_F(HttpGatewayTest, WholeAnswersOnOneConnection) {
  start();
  Client client(port());
  for (int i = 0; i < 3; ++i) {
    const auto response = client.post(
        chat_path, R"({"model":"fake","messages":[{"role":"user","content":"x"}],"max_tokens":2})");
    ASSERT_EQ(response.status, 200);
    const auto json = nlohmann::json::parse(response.body);
    EXPECT_EQ(json["choices"][0]["message"]["content"], "w0 w1 ");
    EXPECT_EQ(json["usage"]["completion_tokens"], 2);
    EXPECT_TRUE(response.headers.contains("x-request-id"));
    EXPECT_TRUE(response.headers.contains("date"));
  }
}

TEST_F(HttpGatewayTest, ManyPromptsAndChoices) {
  start();
  Client client(port());
  const auto response = client.post(
      completion_path, R"({"model":"fake","prompt":["a","b","c"],"n":2,"max_tokens":1})");
  ASSERT_EQ(response.status, 200);
  const auto json = nlohmann::json::parse(response.body);
  ASSERT_EQ(json["choices"].size(), 6U);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], "w0 ");
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 9);
}

TEST_F(HttpGatewayTest, StreamsEveryTokenInOrder) {
  start();
  Client client(port());
  const auto response = client.post(completion_path, prompt(500, true));
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.headers.at("content-type"), HasSubstr("text/event-stream"));
  std::size_t at = 0;
  for (int i = 0; i < 500; ++i) {
    at = response.body.find("\"w" + std::to_string(i) + " \"", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  EXPECT_THAT(response.body, HasSubstr("data: [DONE]\n\n"));
  EXPECT_LE(frontend_.most_ahead, FakeFrontend::window);
  EXPECT_EQ(client.get("/health").status, 200);  // and the connection is as good as before
}

TEST_F(HttpGatewayTest, Embeddings) {
  start();
  Client client(port());
  EXPECT_THAT(client.post("/v1/embeddings", R"({"model":"fake","input":["a","b"]})").body,
              HasSubstr(R"("embedding":[1,1])"));
  EXPECT_EQ(client.post("/v1/embeddings", R"({"model":"none","input":"a"})").status, 404);
}

TEST_F(HttpGatewayTest, RefusalsHaveTheirStatus) {
  start();
  Client client(port());
  for (const bool stream : {false, true}) {  // also a stream, as long as nothing was sent
    auto response = client.post(completion_path, prompt(5, stream, "busy"));
    EXPECT_EQ(response.status, 429);
    EXPECT_EQ(response.headers.at("retry-after"), "2");
    EXPECT_EQ(error_code(response), "resource_exhausted");
    response = client.post(completion_path, prompt(5, stream, "overloaded"));
    EXPECT_EQ(response.status, 503);
    EXPECT_EQ(response.headers.at("retry-after"), "3");
    EXPECT_EQ(client.post(completion_path, prompt(5, stream, "none")).status, 404);
  }
  EXPECT_EQ(client.post(completion_path, "{").status, 400);
  EXPECT_EQ(client.post(completion_path, R"({"model":"fake"})").status, 400);
}

TEST_F(HttpGatewayTest, EveryAnswerOfTheClusterTellsTheRateLimits) {
  frontend_.limits = RateLimits{{60, 58.9, 1.1}, {1000, 900, 2}, {500, 100, 400}};
  start();
  Client client(port());
  const auto check = [](const TestResponse& response, int status) {
    EXPECT_EQ(response.status, status);
    for (const auto& [name, value] :
         std::map<std::string, std::string>{{"x-ratelimit-limit-requests", "60"},
                                            {"x-ratelimit-remaining-requests", "58"},
                                            {"x-ratelimit-reset-requests", "1.1s"},
                                            {"x-ratelimit-limit-tokens", "500"},
                                            {"x-ratelimit-remaining-tokens", "100"},
                                            {"x-ratelimit-reset-tokens", "6m40s"}}) {
      ASSERT_EQ(response.headers.count(name), 1U) << name;
      EXPECT_EQ(response.headers.at(name), value) << name;
    }
  };
  for (const bool stream : {false, true}) {
    check(client.post(completion_path, prompt(5, stream)), 200);
    const auto refused = client.post(completion_path, prompt(5, stream, "busy"));
    check(refused, 429);
    EXPECT_EQ(refused.headers.at("retry-after"), "2");
    EXPECT_EQ(refused.headers.at("retry-after-ms"), "1500");
  }
  check(client.post("/v1/embeddings", R"({"model":"fake","input":"a"})"), 200);
  check(client.post("/v1/embeddings", R"({"model":"none","input":"a"})"), 404);
  // The next answer on the connection has none of its own.
  EXPECT_EQ(client.get("/v1/models").headers.count("x-ratelimit-limit-requests"), 0U);
  EXPECT_EQ(client.post(completion_path, "{").headers.count("x-ratelimit-limit-requests"), 0U);
}

TEST_F(HttpGatewayTest, AFailureInMidStreamIsAnEvent) {
  frontend_.token_delay_us = 2000;
  start();
  Client client(port());
  const auto response = client.post(completion_path, prompt(5, true, "broken"));
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, HasSubstr("w2 "));
  EXPECT_THAT(response.body, HasSubstr(R"(data: {"error":{"message":"the node is gone")"));
  EXPECT_THAT(response.body, Not(HasSubstr("[DONE]")));
  EXPECT_EQ(client.post(completion_path, prompt(5, false, "broken")).status, 503);
}

TEST_F(HttpGatewayTest, Keys) {
  start();
  Client good(port());
  EXPECT_EQ(good.get("/v1/models", "Authorization: Bearer tenant\r\n").status, 200);
  EXPECT_EQ(good.get("/v1/models", "Authorization: Basic x\r\n").status, 401);
  const auto wrong = good.get("/v1/models", "Authorization: Bearer wrong\r\n");
  EXPECT_EQ(wrong.status, 401);
  EXPECT_EQ(error_code(wrong), "unauthenticated");
  EXPECT_EQ(wrong.headers.at("www-authenticate"), "Bearer");
  EXPECT_EQ(good.get("/health", "Authorization: Bearer wrong\r\n").status, 200);
  // Before its body is read.
  Client stranger(port());
  stranger.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Authorization: Bearer wrong\r\nContent-Length: 90000\r\n\r\n");
  EXPECT_EQ(stranger.read_response().status, 401);
}

TEST_F(HttpGatewayTest, OnlyJsonIsRead) {
  start();
  for (const auto* headers : {"Content-Type: text/plain\r\n", "",
                              "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"}) {
    Client client(port());
    client.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n" +
                std::string(headers) + "\r\n{}");
    EXPECT_EQ(client.read_response().status, 415) << headers;
  }
}

TEST_F(HttpGatewayTest, PipelinedRequestsAreAnsweredInOrder) {
  frontend_.token_delay_us = 1000;
  start();
  Client client(port());
  client.send(post_text(completion_path, prompt(2)) + get_text("/health") +
              post_text(completion_path, prompt(3, true)) + get_text("/nowhere") +
              get_text("/v1/models"));
  EXPECT_THAT(client.read_response().body, HasSubstr("w0 w1 "));
  EXPECT_THAT(client.read_response().body, HasSubstr("ok"));
  EXPECT_THAT(client.read_response().body, HasSubstr("[DONE]"));
  EXPECT_EQ(client.read_response().status, 404);
  EXPECT_THAT(client.read_response().body, HasSubstr("fake"));
}

TEST_F(HttpGatewayTest, MorePipelinedThanTheBufferHolds) {
  start();
  Client client(port());
  std::string text;
  for (int i = 0; i < 500; ++i) text += get_text("/health");
  std::thread sender([&] { client.send(text); });
  for (int i = 0; i < 500; ++i) ASSERT_EQ(client.read_response().status, 200) << i;
  sender.join();
}

TEST_F(HttpGatewayTest, ByteByByte) {
  start();
  Client client(port());
  for (const char c : post_text(completion_path, prompt(2))) client.send({&c, 1});
  EXPECT_EQ(client.read_response().status, 200);
}

TEST_F(HttpGatewayTest, ChunkedBody) {
  start();
  Client client(port());
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  const std::string body = prompt(2);
  client.send(head + "5;x=y\r\n" + body.substr(0, 5) + "\r\n");
  std::this_thread::sleep_for(20ms);
  char size[8];
  std::snprintf(size, sizeof size, "%zx", body.size() - 5);
  client.send(std::string(size) + "\r\n" + body.substr(5) + "\r\n0\r\nTrailer: x\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 200);
  EXPECT_EQ(client.get("/health").status, 200);
}

TEST_F(HttpGatewayTest, ContinuesOnDemand) {
  start();
  Client client(port());
  const std::string body = prompt(2);
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send(body);
  EXPECT_EQ(client.read_response().status, 200);

  Client other(port());
  other.send(post_text(completion_path, "", "Expect: tea\r\nContent-Length: 5\r\n"));
  EXPECT_GE(other.read_response().status, 400);
}

TEST_F(HttpGatewayTest, Http10) {
  start();
  const std::string body = prompt(3, true);
  Client client(port());
  client.send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  const auto response = client.read_response();
  EXPECT_FALSE(response.headers.contains("transfer-encoding"));
  EXPECT_EQ(response.headers.at("connection"), "close");
  EXPECT_THAT(response.body, HasSubstr("[DONE]"));

  Client kept(port());
  for (int i = 0; i < 2; ++i) {
    kept.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(kept.read_response().headers.at("connection"), "keep-alive");
  }
}

TEST_F(HttpGatewayTest, ConnectionClose) {
  start();
  Client client(port());
  EXPECT_EQ(client.get("/health", "Connection: close\r\n").headers.at("connection"), "close");
  EXPECT_TRUE(client.closed_within(2s));
}

// A client that leaves: whatever it was waiting for is cancelled at once.
TEST_F(HttpGatewayTest, LeavingCancels) {
  frontend_.token_delay_us = 20'000;
  start();
  int leavers = 0;
  for (const bool stream : {true, false}) {
    for (const bool reset : {true, false}) {
      for (const bool begun : {true, false}) {
        Client client(port());
        client.send(post_text(completion_path, prompt(1000, stream)));
        if (begun && stream) client.read_until("data: ");
        ASSERT_TRUE(eventually([&] { return frontend_.running == 1; }));
        const auto left = Clock::now();
        reset ? client.reset() : client.close();
        ++leavers;
        ASSERT_TRUE(eventually([&] { return frontend_.cancelled == leavers; }))
            << "stream " << stream << " reset " << reset << " begun " << begun;
        // One token is on its way already, and one more tells that nobody takes it.
        EXPECT_LT(Clock::now() - left, 200ms) << stream << reset << begun;
        ASSERT_TRUE(eventually([&] { return frontend_.running == 0; }));
      }
    }
  }
}

// A client that has said all and waits: it gets its answer.
TEST_F(HttpGatewayTest, HalfCloseStillGetsTheAnswer) {
  frontend_.token_delay_us = 10'000;
  start();
  for (const bool stream : {true, false}) {
    Client client(port());
    client.send(post_text(completion_path, prompt(10, stream)));
    client.end_output();
    const auto response = client.read_response();
    EXPECT_EQ(response.status, 200);
    EXPECT_THAT(response.body, HasSubstr(stream ? "[DONE]" : "w9 "));
    EXPECT_TRUE(client.closed_within(2s));
  }
  EXPECT_EQ(frontend_.cancelled, 0);
}

TEST_F(HttpGatewayTest, HalfClosedClientsThatLeaveLaterAreNoticed) {
  frontend_.token_delay_us = 20'000;
  start();
  Client client(port());
  client.send(post_text(completion_path, prompt(1000)));
  client.end_output();
  EXPECT_THAT(client.read_until("\r\n\r\n"), HasSubstr("100 Continue"));
  client.close();
  EXPECT_TRUE(eventually([&] { return frontend_.cancelled == 1; }));
}

TEST_F(HttpGatewayTest, SlowHeadIsSentAway) {
  config_.header_timeout = 200ms;
  start();
  Client silent(port());
  EXPECT_TRUE(silent.closed_within(2s));
  Client slow(port());
  slow.send("GET /health HTTP/1.1\r\n");
  const auto began = Clock::now();
  EXPECT_EQ(slow.read_response().status, 408);
  EXPECT_GE(Clock::now() - began, 100ms);
  EXPECT_TRUE(slow.closed_within(2s));
  // Drops of header do not buy time.
  Client dripping(port());
  dripping.send("GET /health HTTP/1.1\r\n");
  const auto dripped = Clock::now();
  while (Clock::now() - dripped < 3s && dripping.send("X: y\r\n")) {
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_LT(Clock::now() - dripped, 2500ms);
}

TEST_F(HttpGatewayTest, SlowBodyIsSentAway) {
  config_.body_timeout = 200ms;
  start();
  Client client(port());
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 100\r\n\r\n{");
  EXPECT_EQ(client.read_response().status, 408);
}

TEST_F(HttpGatewayTest, IdleConnectionsEnd) {
  config_.idle_timeout = 200ms;
  start();
  Client client(port());
  EXPECT_EQ(client.get("/health").status, 200);
  EXPECT_TRUE(client.closed_within(2s));
}

TEST_F(HttpGatewayTest, HeadLimit) {
  start();
  Client many(port());
  many.send("GET /health HTTP/1.1\r\nX: " + std::string(5000, 'a') + "\r\n\r\n");
  EXPECT_EQ(many.read_response().status, 431);
  Client endless(port());
  endless.send(std::string(5000, 'A'));
  EXPECT_EQ(endless.read_response().status, 431);
}

TEST_F(HttpGatewayTest, BodyLimit) {
  start();
  Client honest(port());
  honest.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 100001\r\n\r\n");
  EXPECT_EQ(honest.read_response().status, 413);
  Client chunked(port());
  std::string text =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 30; ++i) text += "1000\r\n" + std::string(4096, ' ') + "\r\n";
  std::thread sender([&] { chunked.send(text); });
  EXPECT_EQ(chunked.read_response().status, 413);
  sender.join();
  Client absurd(port());
  absurd.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 18446744073709551615\r\n\r\n");
  EXPECT_EQ(absurd.read_response().status, 413);
}

TEST_F(HttpGatewayTest, AllBodiesTogetherAreBounded) {
  frontend_.memory_bytes = 96'000;
  start();
  const auto half = [](const std::string& tenant) {
    return "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
           "Authorization: Bearer " +
           tenant + "\r\nContent-Length: 1000\r\n\r\n{";
  };
  std::vector<std::unique_ptr<Client>> holders;
  for (int i = 0; i < 16; ++i) {
    holders.push_back(std::make_unique<Client>(port()));
    holders.back()->send(half("greedy"));
  }
  ASSERT_TRUE(eventually([&] {
    return Client(port()).get("/metrics").body.find("request_memory_bytes 48000\n") !=
           std::string::npos;
  }));
  Client late(port());
  const auto began = Clock::now();
  late.send(half("greedy"));
  const auto response = late.read_response();
  EXPECT_GE(Clock::now() - began, 1s) << "it waits a little";
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(error_code(response), "request_memory");
  EXPECT_TRUE(response.headers.contains("retry-after"));
  EXPECT_EQ(Client(port()).post(completion_path, prompt(1)).status, 200)
      << "another tenant's share";
  Client waiting(port());
  waiting.send(half("greedy").substr(0, half("greedy").size() - 1) + prompt(1) +
               std::string(1000 - prompt(1).size(), ' '));
  std::this_thread::sleep_for(100ms);
  holders.pop_back();
  EXPECT_EQ(waiting.read_response().status, 200) << "as soon as there is room";
}

TEST_F(HttpGatewayTest, AmbiguousFramingIsRefused) {
  start();
  const std::vector<std::pair<std::string, int>> cases = {
      {"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400},
      {"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 400},
      {"Content-Length: 2\r\nContent-Length: 3\r\n", 400},
      {"Content-Length: -2\r\n", 400},
      {"Content-Length: 2x\r\n", 400},
      {"Transfer-Encoding: gzip, chunked\r\n", 501},
      {"Transfer-Encoding: gzip\r\n", 501},
      {"Host: other\r\n", 400},
      {"Bad Header: x\r\n", 400},
      {"X: a\r\n folded: b\x01\r\n", 400},
  };
  for (const auto& [headers, status] : cases) {
    Client client(port());
    client.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
                headers + "\r\n{}");
    EXPECT_EQ(client.read_response().status, status) << headers;
    EXPECT_TRUE(client.closed_within(2s)) << headers;
  }
  Client homeless(port());
  homeless.send("GET /health HTTP/1.1\r\n\r\n");
  EXPECT_EQ(homeless.read_response().status, 400);
  Client modern(port());
  modern.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_GE(modern.read_response().status, 400);
}

TEST_F(HttpGatewayTest, GarbageIsRefusedAndHarmsNobody) {
  start();
  Client tls(port());
  tls.send(std::string("\x16\x03\x01\x02\x00\x01\x00", 7));
  EXPECT_EQ(tls.read_response().status, 400);
  std::mt19937 random(7);
  const std::string model = post_text(completion_path, prompt(2));
  for (int i = 0; i < 300; ++i) {
    std::string bytes = model;
    for (int j = 0; j < 4; ++j) bytes[random() % bytes.size()] = static_cast<char>(random());
    Client client(port());
    client.send(bytes);
    client.end_output();
    client.read_all();
  }
  EXPECT_EQ(Client(port()).get("/health").status, 200);
}

TEST_F(HttpGatewayTest, ConnectionsAreCapped) {
  config_.connections = 4;
  start();
  std::vector<std::unique_ptr<Client>> open;
  for (int i = 0; i < 4; ++i) {
    open.push_back(std::make_unique<Client>(port()));
    ASSERT_EQ(open.back()->get("/health").status, 200);
  }
  Client fifth(port());
  const auto response = fifth.get("/health");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(error_code(response), "too_many_connections");
  EXPECT_EQ(response.headers.at("connection"), "close");
  open.pop_back();
  EXPECT_TRUE(eventually([&] { return Client(port()).get("/health").status == 200; }));
}

TEST_F(HttpGatewayTest, ATenantThatOpensAllConnectionsLeavesSomeToOthers) {
  config_.connections = 16;
  start();
  const auto ask = [&](Client& client, const std::string& tenant) {
    client.send(post_text(completion_path, prompt(2), "Authorization: Bearer " + tenant + "\r\n"));
    return client.read_response();
  };
  std::vector<std::unique_ptr<Client>> greedy;
  for (int i = 0; i < 12; ++i) {
    greedy.push_back(std::make_unique<Client>(port()));
    ASSERT_EQ(ask(*greedy.back(), "greedy").status, 200);
  }
  for (int i = 0; i < 200; ++i) {
    Client more(port());
    const auto response = ask(more, "greedy");
    ASSERT_EQ(response.status, 429);
    EXPECT_EQ(error_code(response), "tenant_connections");
    EXPECT_EQ(response.headers.at("retry-after"), "1");
    EXPECT_EQ(response.headers.at("connection"), "close");
  }
  std::vector<std::unique_ptr<Client>> refused;  // that do not go, though they were told to
  for (int i = 0; i < 80; ++i) {
    refused.push_back(std::make_unique<Client>(port()));
    ASSERT_EQ(ask(*refused.back(), "greedy").status, 429);
  }
  Client modest(port());
  EXPECT_EQ(ask(modest, "modest").status, 200);
  EXPECT_EQ(ask(*greedy.front(), "greedy").status, 200) << "it has its place";
  greedy.clear();
  EXPECT_TRUE(eventually([&] {
    Client again(port());
    return ask(again, "greedy").status == 200;
  }));
}

// Whoever comes behind a crowd is let in, though nobody could say in time whose the crowd is.
TEST_F(HttpGatewayTest, ACrowdThatComesAtOnceLeavesSomeToOthers) {
  config_.connections = 16;
  start();
  const auto ask = [](Client& client, const std::string& tenant) {
    client.send(post_text(completion_path, prompt(2), "Authorization: Bearer " + tenant + "\r\n"));
  };
  std::vector<std::unique_ptr<Client>> crowd;
  for (int i = 0; i < 300; ++i) {
    crowd.push_back(std::make_unique<Client>(port()));
    if (i % 30 == 29) {
      Client modest(port());
      for (std::size_t j = crowd.size() - 30; j < crowd.size(); ++j) ask(*crowd[j], "greedy");
      ask(modest, "modest");
      ASSERT_EQ(modest.read_response().status, 200) << "after " << i;
    }
  }
}

TEST_F(HttpGatewayTest, WhoSaysNothingHoldsUpNobodyForLong) {
  config_.connections = 16;
  start();
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 10; ++i) silent.push_back(std::make_unique<Client>(port()));
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 5; ++i) {
    Client client(port());
    EXPECT_EQ(client.get("/health").status, 200);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
}

TEST_F(HttpGatewayTest, AHundredStreams) {
  frontend_.token_delay_us = 500;
  start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<Client>(port()));
    clients.back()->send(post_text(completion_path, prompt(40, true)));
  }
  for (auto& client : clients) {
    const auto response = client->read_response();
    EXPECT_EQ(response.status, 200);
    EXPECT_THAT(response.body, HasSubstr("\"w39 \""));
    EXPECT_THAT(response.body, HasSubstr("[DONE]"));
  }
}

TEST_F(HttpGatewayTest, AReaderThatTakesNothingIsPausedAndThenCut) {
  config_.write_timeout = 300ms;
  start();
  Client lazy(port(), false, 4096);
  lazy.send(post_text(completion_path, prompt(1'000'000, true)));
  Client busy(port());
  EXPECT_EQ(busy.post(completion_path, prompt(100, true)).status, 200);  // is not held up by it
  EXPECT_TRUE(eventually([&] { return frontend_.cancelled == 1; }));
  EXPECT_LE(frontend_.most_ahead, FakeFrontend::window);
}

TEST_F(HttpGatewayTest, StopLetsAnswersEnd) {
  frontend_.token_delay_us = 5000;
  start();
  Client idle(port());
  EXPECT_EQ(idle.get("/health").status, 200);
  Client running(port());
  running.send(post_text(completion_path, prompt(40, true)));
  running.read_until("data: ");
  std::thread stopper([&] { gateway_->stop(10s); });
  EXPECT_TRUE(idle.closed_within(2s));
  EXPECT_THAT(running.read_all(), HasSubstr("[DONE]"));
  stopper.join();
  EXPECT_FALSE(Client(gateway_->port()).connected());
  EXPECT_EQ(frontend_.cancelled, 0);
}

TEST_F(HttpGatewayTest, StopCutsWhatIsLeftAtTheDeadline) {
  frontend_.token_delay_us = 10'000;
  start();
  Client stream(port()), whole(port()), half_sent(port());
  stream.send(post_text(completion_path, prompt(10'000, true)));
  stream.read_until("data: ");
  whole.send(post_text(completion_path, prompt(10'000)));
  half_sent.send("POST /v1/completions HTTP/1.1\r\n");
  ASSERT_TRUE(eventually([&] { return frontend_.running == 2; }));
  const auto began = Clock::now();
  gateway_->stop(100ms);
  EXPECT_LT(Clock::now() - began, 2s);
  const std::string rest = stream.read_all();
  EXPECT_THAT(rest, Not(HasSubstr("[DONE]")));
  EXPECT_THAT(rest, HasSubstr(R"("code":"stopping")"));
  EXPECT_EQ(whole.read_response().status, 503);
  EXPECT_EQ(half_sent.read_all(), "");
  EXPECT_TRUE(eventually([&] { return frontend_.cancelled == 2; }));
}

TEST_F(HttpGatewayTest, BuffersAreInTheLedger) {
  start();
  Client client(port());
  ASSERT_EQ(client.get("/health").status, 200);
  EXPECT_GE(ledger_.account(Component::rpc, "", shared_tenant).bytes(), 16'384);
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Authorization: Bearer acme\r\nContent-Length: 50000\r\n\r\n{");
  auto& acme = ledger_.account(Component::rpc, "", TenantId("acme"), Endpoint::completions);
  EXPECT_TRUE(eventually([&] { return acme.bytes() == 3 * 50'000; }));
  client.close();
  EXPECT_TRUE(eventually([&] { return acme.bytes() == 0; }));
}

TEST_F(HttpGatewayTest, BeyondLoopbackNeedsTls) {
  config_.listen.host = "0.0.0.0";
  auto started = HttpGateway::start(config_, frontend_, ledger_);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(started.error().message, HasSubstr("tls_certificate"));
}

TEST_F(HttpGatewayTest, ATakenPortIsSaid) {
  start();
  config_.listen.port = port();
  auto second = HttpGateway::start(config_, frontend_, ledger_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::unavailable);
  EXPECT_THAT(second.error().message, HasSubstr(std::to_string(port())));
}

class HttpTlsTest : public HttpGatewayTest {
 protected:
  void SetUp() override {
    HttpGatewayTest::SetUp();
    folder_ = std::filesystem::temp_directory_path() / ("plimsoll_tls_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    config_.listen.tls_certificate = folder_ / "server.crt";
    config_.listen.tls_key = folder_ / "server.key";
    const std::string command =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -keyout " +
        config_.listen.tls_key.string() + " -out " + config_.listen.tls_certificate.string() +
        " 2>/dev/null";
    if (std::system(command.c_str()) != 0) GTEST_SKIP() << "needs the openssl command";
  }
  void TearDown() override {
    HttpGatewayTest::TearDown();
    std::filesystem::remove_all(folder_);
  }
  std::filesystem::path folder_;
};

TEST_F(HttpTlsTest, AnswersAndStreams) {
  start();
  Client client(port(), true);
  ASSERT_TRUE(client.connected());
  EXPECT_EQ(client.get("/health").status, 200);
  EXPECT_THAT(client.post(completion_path, prompt(200, true)).body, HasSubstr("[DONE]"));
  client.send(get_text("/health") + get_text("/v1/models"));
  EXPECT_THAT(client.read_response().body, HasSubstr("ok"));
  EXPECT_THAT(client.read_response().body, HasSubstr("fake"));
  EXPECT_EQ(client.get("/health", "Connection: close\r\n").status, 200);
  EXPECT_TRUE(client.closed_within(2s));
}

TEST_F(HttpTlsTest, ABigBody) {
  start();
  Client client(port(), true);
  const std::string text(90'000, 'x');
  EXPECT_EQ(client.post(completion_path, R"({"model":"fake","prompt":")" + text + "\"}").status,
            200);
}

TEST_F(HttpTlsTest, LeavingCancels) {
  frontend_.token_delay_us = 20'000;
  start();
  for (const bool stream : {true, false}) {
    Client client(port(), true);
    client.send(post_text(completion_path, prompt(1000, stream)));
    ASSERT_TRUE(eventually([&] { return frontend_.running == 1; }));
    client.close();
    const auto left = Clock::now();
    ASSERT_TRUE(eventually([&] { return frontend_.running == 0; }));
    EXPECT_LT(Clock::now() - left, 200ms);
  }
  EXPECT_EQ(frontend_.cancelled, 2);
}

TEST_F(HttpTlsTest, PlainAndStalledHandshakesEnd) {
  config_.header_timeout = 300ms;
  start();
  Client plain(port());
  plain.send(get_text("/health"));
  EXPECT_THAT(plain.read_all(), Not(HasSubstr("200 OK")));
  Client stalled(port());
  stalled.send("\x16");
  EXPECT_TRUE(stalled.closed_within(2s));
  EXPECT_EQ(Client(port(), true).get("/health").status, 200);
}

TEST_F(HttpTlsTest, StopEndsStreams) {
  frontend_.token_delay_us = 10'000;
  start();
  Client client(port(), true);
  client.send(post_text(completion_path, prompt(10'000, true)));
  client.read_until("data: ");
  gateway_->stop(50ms);
  EXPECT_TRUE(eventually([&] { return frontend_.cancelled == 1; }));
}

TEST_F(HttpTlsTest, MetricsBeyondLoopbackNeedAnOperatorsKey) {
  config_.listen.host = "0.0.0.0";
  start();
  Client client(port(), true);
  EXPECT_EQ(client.get("/metrics", "Authorization: Bearer tenant\r\n").status, 403);
  EXPECT_EQ(client.get("/metrics", "Authorization: Bearer root\r\n").status, 200);
}

TEST_F(HttpGatewayTest, TheConsolesPageIsForAllAndItsFiguresForOperators) {
  start();
  Client client(port());
  const auto tenant = "Authorization: Bearer tenant\r\n";
  EXPECT_EQ(client.get("/console", tenant).status, 200);
  EXPECT_EQ(client.get("/console/data", tenant).status, 403);
  EXPECT_EQ(client.get("/console/data", "Authorization: Bearer wrong\r\n").status, 401);
  EXPECT_EQ(client.get("/console/data", "Authorization: Bearer root\r\n").status, 200);
}

TEST_F(HttpGatewayTest, TheConsoleHasWhatIsNewerThanWhatItKnows) {
  HistoryPoint point;
  point.components[static_cast<std::size_t>(Component::kv)] = 7;
  point.tenants = {{"acme", 6}};
  cluster::Event event;
  event.kind = cluster::EventKind::preempt;
  event.cause = "<b>\"\xff";  // whatever it is, the answer is JSON
  for (std::uint64_t id : {1, 2, 3}) {
    point.id = event.id = id;
    frontend_.console_view.points.push_back(point);
    frontend_.console_view.events.push_back(event);
  }
  start();
  Client client(port());
  auto data = nlohmann::json::parse(client.get("/console/data").body);
  ASSERT_EQ(data["points"].size(), 3U);
  EXPECT_EQ(data["points"][0]["components"], (nlohmann::json{{"kv", 7}}))
      << "what is 0 is left out";
  EXPECT_EQ(data["points"][0]["tenants"][0][0], "acme");
  EXPECT_FALSE(data["points"][0].contains("stall")) << "not known is not 0";
  EXPECT_EQ(data["events"][2]["kind"], "preempt");
  EXPECT_EQ(data["nodes"][0]["name"], "node-1");
  data = nlohmann::json::parse(client.get("/console/data?after=2&event=3").body);
  ASSERT_EQ(data["points"].size(), 1U);
  EXPECT_EQ(data["points"][0]["id"], 3);
  EXPECT_TRUE(data["events"].empty());
  for (const auto* query : {"?after", "?after=", "?after=-1", "?after=1x",
                            "?event=99999999999999999999", "?x=1", "?after=1&&event=1"}) {
    const auto answer = client.get(std::string("/console/data") + query);
    EXPECT_EQ(answer.status, 400) << query;
    EXPECT_EQ(error_code(answer), "invalid_argument");
  }
}

TEST_F(HttpTlsTest, ABrokenPairIsRefused) {
  config_.listen.tls_key = config_.listen.tls_certificate;
  auto started = HttpGateway::start(config_, frontend_, ledger_);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("http.tls_key"));
}

}  // namespace
}  // namespace plimsoll
