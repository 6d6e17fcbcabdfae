// The SDK before several servers: what it makes of lost ones and of refusals that pass.
#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "actors/gateway/rpc_gateway.h"
#include "tests/actors/gateway/fake_frontend.h"

namespace plimsoll {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct FakeServer {
  FakeServer() { start(); }
  void start() {
    auto started = RpcGateway::start(config, frontend, ledger);
    ASSERT_TRUE(started) << started.error().message;
    gateway = std::move(*started);
    config.listen.port = gateway->port();
  }
  void stop() {
    gateway->stop(0ms);
    gateway.reset();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(config.listen.port); }

  Ledger ledger;
  FakeFrontend frontend;
  RpcConfig config = [] {
    RpcConfig config;
    config.listen.port = 0;
    return config;
  }();
  std::unique_ptr<RpcGateway> gateway;
};

client::Options options(const std::vector<std::string>& addresses) {
  client::Options options;
  options.addresses = addresses;
  options.retry_ms = 10'000;
  return options;
}

client::GenerateRequest request(std::uint32_t tokens) {
  client::GenerateRequest request;
  request.model = "fake";
  request.prompt = "hello";
  request.max_tokens = tokens;
  return request;
}

std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "w" + std::to_string(i) + " ";
  return text;
}

template <class Call>
client::Error error_of(Call call) {
  try {
    call();
  } catch (const client::Error& error) {
    return error;
  }
  return {"none", "it was no error"};
}

TEST(Client, AnAnswerGoesOnAtAnotherServer) {
  std::array<FakeServer, 2> servers;
  for (auto& server : servers) server.frontend.token_delay_us = 200;
  client::Client client(options({servers[0].address(), servers[1].address()}));
  auto asked = request(200);
  asked.choices = 2;
  asked.echo = true;
  asked.top_logprobs = 0;
  std::array<std::string, 2> streamed;
  std::array<std::size_t, 2> logprobs{};
  int pieces = 0;
  std::jthread killer;
  const auto answer = client.generate(asked, [&](const client::Delta& delta) {
    streamed.at(delta.choice) += delta.text;
    logprobs.at(delta.choice) += delta.tokens.size();
    // In the middle of the second choice: the first has ended.
    if (++pieces == 300) {
      killer = std::jthread([&] {
        for (auto& server : servers) {
          if (server.frontend.running > 0) return server.stop();
        }
      });
    }
    return true;
  });
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(streamed[i], "<prompt>" + words(200));
    EXPECT_EQ(answer.choices.at(i).text, streamed[i]);
    EXPECT_EQ(answer.choices.at(i).finish_reason, "length");
    EXPECT_EQ(logprobs[i], 201U);
  }
  EXPECT_EQ(answer.usage.completion_tokens, 400U);
  ASSERT_EQ(servers[0].frontend.requests().size(), 1U);
  ASSERT_EQ(servers[1].frontend.requests().size(), 1U);
  auto first = servers[0].frontend.requests()[0], second = servers[1].frontend.requests()[0];
  if (!first.resumed.empty()) std::swap(first, second);
  EXPECT_TRUE(first.resumed.empty());
  ASSERT_EQ(second.resumed.size(), 2U);
  EXPECT_EQ(second.resumed[0].tokens.size(), 200U);
  EXPECT_EQ(second.resumed[0].text_bytes, words(200).size()) << "without the echoed prompt";
  EXPECT_LT(second.resumed[1].tokens.size(), 200U);
  EXPECT_EQ(first.seed, second.seed);
  EXPECT_FALSE(first.id.empty());
  EXPECT_EQ(first.id, second.id);
}

TEST(Client, AnAnswerOutlivesTheOnlyServersRestart) {
  FakeServer server;
  server.frontend.token_delay_us = 200;
  client::Client client(options({server.address()}));
  int pieces = 0;
  std::jthread killer;
  const auto answer = client.generate(request(300), [&](const client::Delta&) {
    if (++pieces == 50) {
      killer = std::jthread([&] {
        server.stop();
        server.start();
      });
    }
    return true;
  });
  EXPECT_EQ(answer.choices.at(0).text, words(300));
  EXPECT_EQ(answer.usage.completion_tokens, 300U);
  EXPECT_EQ(pieces, 300);
}

TEST(Client, AnIdleConnectionThatBrokeIsReplaced) {
  std::array<FakeServer, 2> servers;
  client::Client client(options({servers[0].address(), servers[1].address()}));
  client.generate(request(3));
  servers[servers[0].frontend.requests().empty() ? 1 : 0].stop();
  EXPECT_EQ(client.models().size(), 1U);
  EXPECT_EQ(client.generate(request(3)).usage.completion_tokens, 3U);
  EXPECT_EQ(client.embed("fake", {"a"}).vectors.size(), 1U);
  EXPECT_EQ(client.status().nodes.size(), 1U);
}

TEST(Client, ClientsSpreadOverTheServers) {
  std::array<FakeServer, 2> servers;
  const auto at_first = [&] { return servers[0].frontend.requests().size(); };
  for (int i = 0; i < 100 && (at_first() == 0 || servers[1].frontend.requests().empty()); ++i) {
    client::Client(options({servers[0].address(), servers[1].address()})).generate(request(1));
  }
  EXPECT_GT(at_first(), 0U);
  EXPECT_GT(servers[1].frontend.requests().size(), 0U);
}

TEST(Client, DeadAddressesArePassedOver) {
  FakeServer dead, server;
  dead.stop();
  for (int i = 0; i < 4; ++i) {  // wherever it starts
    client::Client client(options({dead.address(), server.address()}));
    EXPECT_EQ(client.generate(request(2)).usage.completion_tokens, 2U);
  }
  server.stop();
  const auto start = Clock::now();
  const auto error = error_of([&] {
    client::Client client(options({dead.address(), server.address()}));
  });
  EXPECT_EQ(error.code, "unavailable");
  EXPECT_THAT(error.what(), HasSubstr(dead.address()));
  EXPECT_THAT(error.what(), HasSubstr(server.address()));
  EXPECT_LT(Clock::now() - start, 5s) << "connecting is not repeated";
  EXPECT_EQ(error_of([] { client::Client client(options({})); }).code, "invalid_argument");
}

TEST(Client, RefusalsThatPassAreWaitedFor) {
  FakeServer server;
  client::Client patient(options({server.address()}));
  server.frontend.refusals = 3;
  const auto start = Clock::now();
  EXPECT_EQ(patient.generate(request(2)).usage.completion_tokens, 2U);
  EXPECT_GE(Clock::now() - start, 60ms) << "three times what the server said";
  EXPECT_EQ(server.frontend.requests().size(), 4U);

  auto impatient = options({server.address()});
  impatient.retry_ms = 0;
  server.frontend.refusals = 1;
  const auto error = error_of([&] { client::Client(impatient).generate(request(2)); });
  EXPECT_EQ(error.code, "unavailable");
  EXPECT_EQ(error.retry_after_ms, 20U);
}

TEST(Client, WaitingIsBounded) {
  FakeServer server;
  auto bounded = options({server.address()});
  bounded.retry_ms = 300;
  client::Client client(bounded);
  server.frontend.refusals = 1'000'000;
  const auto start = Clock::now();
  EXPECT_EQ(error_of([&] { client.generate(request(2)); }).code, "unavailable");
  EXPECT_LT(Clock::now() - start, 5s);
  EXPECT_GT(server.frontend.requests().size(), 1U);
  EXPECT_LT(server.frontend.requests().size(), 20U) << "with pauses that grow";
  server.frontend.refusals = 0;
  // What is later than the client would wait is told at once.
  auto busy = request(2);
  busy.model = "busy";  // come again in 1500 ms
  EXPECT_EQ(error_of([&] { client.generate(busy); }).code, "resource_exhausted");
}

TEST(Client, WhatDoesNotPassIsNotRepeated) {
  FakeServer server;
  client::Client client(options({server.address()}));
  auto wrong = request(2);
  wrong.model = "none";
  EXPECT_EQ(error_of([&] { client.generate(wrong); }).code, "not_found");
  EXPECT_EQ(server.frontend.requests().size(), 1U);
}

TEST(Client, AStopEndsTheWaiting) {
  FakeServer server;
  client::Client client(options({server.address()}));
  server.frontend.refusals = 1'000'000;
  std::stop_source source;
  std::jthread stopper([&] {
    while (server.frontend.requests().size() < 2) std::this_thread::sleep_for(1ms);
    source.request_stop();
  });
  const auto answer = client.generate(request(2), {}, source.get_token());
  EXPECT_EQ(answer.choices.at(0).finish_reason, "cancelled");
}

TEST(Client, TheDeadlineCountsFromTheFirstAttempt) {
  FakeServer server;
  client::Client client(options({server.address()}));
  server.frontend.refusals = 1'000'000;
  auto urgent = request(2);
  urgent.deadline_ms = 100;
  EXPECT_EQ(error_of([&] { client.generate(urgent); }).code, "deadline_exceeded");
  const auto requests = server.frontend.requests();
  ASSERT_GE(requests.size(), 2U);
  EXPECT_EQ(requests[0].deadline_ms, 100U);
  EXPECT_LE(requests[1].deadline_ms, 80U);
}

}  // namespace
}  // namespace plimsoll
