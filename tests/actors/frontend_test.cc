// Text in, text out, through the real actors.
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "actors/frontend_impl.h"
#include "actors/router_call.h"
#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using testing::House;
using testing::HouseOptions;
using testing::Listener;
using Reasons = std::vector<std::pair<std::uint32_t, FinishReason>>;

std::string repeated(const std::string& text, std::size_t length) {
  std::string out;
  while (out.size() < length) out += text;
  return out.substr(0, length);
}

TEST(Frontend, TextInTextOut) {
  House house;
  const auto answer = house.generate(House::text("größer 漢字"));
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  EXPECT_EQ(answer->text.at(0), "größer 漢字");
  EXPECT_EQ(answer->reasons, (Reasons{{0, FinishReason::stop}}));
  EXPECT_EQ(answer->usage.prompt_tokens, 15U);
  EXPECT_EQ(answer->usage.completion_tokens, 15U);
}

TEST(Frontend, ChatGoesThroughTheTemplate) {
  House house;
  GenerateRequest request;
  request.model = "m";
  request.input = std::vector<ChatMessage>{{"user", "hi"}};
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  EXPECT_EQ(answer->text.at(0), "user\nhiassistant\n") << "special tokens have no text";
}

TEST(Frontend, MaxTokensEndsWithLength) {
  House house;
  const auto answer = house.generate("abc", 7);
  ASSERT_TRUE(answer->wait());
  EXPECT_EQ(answer->text.at(0), "abcabca");
  EXPECT_EQ(answer->reasons, (Reasons{{0, FinishReason::length}}));
}

TEST(Frontend, AStopStringEndsTheSequenceInTheEngine) {
  House house({.step = std::chrono::microseconds(500)});
  auto request = House::text("one two STOP three ");
  request.ignore_eos = true;
  request.max_tokens = 4000;
  request.stop = {"never", "STOP"};
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  EXPECT_EQ(answer->text.at(0), "one two ");
  EXPECT_EQ(answer->reasons, (Reasons{{0, FinishReason::stop}}));
  EXPECT_EQ(answer->usage.completion_tokens, 12U);
  EXPECT_TRUE(house.engines[0]->idle()) << "on_end comes when the engine has let go";
}

TEST(Frontend, ChoicesHaveTheirOwnSeedsAndTexts) {
  House house;
  auto request = House::text("hello");
  request.choices = 5;
  request.seed = 40;
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  EXPECT_EQ(answer->text, std::vector<std::string>(5, "hello"));
  EXPECT_EQ(answer->reasons.size(), 5U);
  EXPECT_EQ(answer->usage.prompt_tokens, 5U) << "the prompt counts once";
  EXPECT_EQ(answer->usage.completion_tokens, 25U);
  std::vector<std::uint64_t> seeds;
  for (const auto& sequence : house.engines[0]->requests()) seeds.push_back(sequence.sampling.seed);
  EXPECT_EQ(seeds, (std::vector<std::uint64_t>{40, 41, 42, 43, 44}));
}

TEST(Frontend, EchoWithLogprobs) {
  House house;
  auto request = House::text("abc");
  request.echo = true;
  request.sampling.top_logprobs = 0;
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  EXPECT_EQ(answer->prompt, "abc");
  ASSERT_EQ(answer->prompt_tokens.size(), 3U);
  EXPECT_FALSE(answer->prompt_tokens[0].logprob);
  EXPECT_EQ(answer->prompt_tokens[1].logprob, -0.5F);
  ASSERT_EQ(answer->tokens.size(), 3U);
  EXPECT_EQ(answer->tokens[2].bytes, "c");
  EXPECT_EQ(answer->tokens[2].logprob, -0.25F);
}

TEST(Frontend, ScoringGeneratesNothing) {
  House house;
  auto request = House::text("abc");
  request.echo = true;
  request.max_tokens = 0;
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  EXPECT_EQ(answer->prompt, "abc");
  EXPECT_TRUE(answer->text.empty() || answer->text[0].empty());
  EXPECT_EQ(answer->usage.completion_tokens, 0U);
}

TEST(Frontend, LogprobsOfAStopStringAreHeldBack) {
  House house;
  auto request = House::text("ab\n\nc");
  request.stop = {"\n\n"};
  request.sampling.top_logprobs = 0;
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  EXPECT_EQ(answer->text.at(0), "ab");
  EXPECT_EQ(answer->tokens.size(), 2U);
}

TEST(Frontend, RefusesWithTypedErrors) {
  House house;
  const auto refused = [&](GenerateRequest request, ErrorCode code, const std::string& param) {
    const auto answer = house.generate(std::move(request));
    ASSERT_TRUE(answer->wait());
    ASSERT_TRUE(answer->error);
    EXPECT_EQ(answer->error->code, code) << to_string(*answer->error);
    EXPECT_EQ(answer->error->param, param);
    EXPECT_TRUE(answer->text.empty());
  };
  auto request = House::text("a");
  request.model = "nope";
  refused(request, ErrorCode::not_found, "model");
  request.model = "e";
  refused(request, ErrorCode::invalid_argument, "model");
  refused(House::text(std::string(5000, 'a')), ErrorCode::invalid_argument, "prompt");
  refused(House::text(""), ErrorCode::invalid_argument, "prompt");
  request = House::text("a");
  request.stop.assign(10'000, "x");
  refused(request, ErrorCode::invalid_argument, "stop");
  request = House::text("a");
  request.input = std::vector<ChatMessage>{{"root", "a"}};
  refused(request, ErrorCode::invalid_argument, "messages");
  EXPECT_EQ(house.open.count(), 0U);
  EXPECT_EQ(house.held(Component::requests), 0);
  const auto text = house.frontend->metrics();
  for (const char* line :
       {"code=\"not_found\",model=\"unknown\"",
        "plimsoll_refusals_total{reason=\"model_not_found\",tenant=\"local\"} 1"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

TEST(Frontend, CancelEndsWithinAStep) {
  House house({.step = std::chrono::microseconds(1000)});
  const auto answer = house.generate("abc", 4000);
  ASSERT_TRUE(answer->wait_for_tokens(3));
  answer->stream->cancel();
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::cancelled);
  EXPECT_LT(answer->usage.completion_tokens, 4000U);
  EXPECT_TRUE(house.engines[0]->idle());
  answer->stream->cancel();  // after the end: nothing
}

TEST(Frontend, ASlowReaderStopsOnlyItself) {
  House house({.window = 16});
  const auto slow = house.generate("abcd", 100, false);
  ASSERT_TRUE(slow->wait_for_tokens(16));
  const auto other = house.generate("xyz", 300);
  ASSERT_TRUE(other->wait());
  EXPECT_EQ(other->text.at(0), repeated("xyz", 300));
  EXPECT_EQ(slow->received, 16U) << "no more than its window";
  EXPECT_FALSE(slow->ended);
  slow->stream->consumed(10);  // credit goes back in quarters of the window
  ASSERT_TRUE(slow->wait_for_tokens(24));
  EXPECT_FALSE(slow->wait(std::chrono::milliseconds(30)));
  EXPECT_EQ(slow->received, 24U);
  {
    const std::lock_guard lock(slow->mutex);
    slow->consume = true;
    slow->stream->consumed(14);
  }
  ASSERT_TRUE(slow->wait());
  EXPECT_EQ(slow->text.at(0), repeated("abcd", 100));
}

TEST(Frontend, AWindowOfOneStillMoves) {
  House house({.window = 1});
  const auto answer = house.generate("é漢", 20);  // most tokens show nothing
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  EXPECT_EQ(answer->text.at(0), repeated("é漢", 20));
}

TEST(Frontend, TheDeadlineEndsARequest) {
  House house;
  house.engines[0]->hold = true;
  auto request = House::text("abc");
  request.deadline_ms = 50;
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::deadline_exceeded);
}

TEST(Frontend, TheTenantsQuotaBoundsDeadlineAndCache) {
  House house;
  cluster::Tenant tenant;
  tenant.name = "local";
  tenant.quota.deadline_ms = 50;
  tenant.quota.cache_bytes = 6000;
  const auto set =
      call_router(house.router, [&](auto& core, auto now, auto&) { core.set_tenant(tenant, now); });
  ASSERT_TRUE(set);
  house.engines[0]->hold = true;
  auto request = House::text("abc");
  request.deadline_ms = 3'600'000;
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::deadline_exceeded);
  const auto seen = house.engines[0]->requests();
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_LE(seen[0].cache_bytes, 6000U);
  EXPECT_GT(seen[0].cache_bytes, 0U);
}

TEST(Frontend, WhatShallNotBeStoredSaysSoToTheEngine) {
  House house;
  for (const bool no_store : {false, true}) {
    auto request = House::text("abc");
    request.no_store = no_store;
    ASSERT_TRUE(house.generate(std::move(request))->wait());
    EXPECT_EQ(house.engines[0]->requests().back().no_store, no_store);
  }
  cluster::Tenant local;
  local.name = "local";
  local.cache.no_store = true;
  ASSERT_TRUE(house.directory->create_tenant(local));
  ASSERT_TRUE(house.generate("abc", 3)->wait());
  EXPECT_TRUE(house.engines[0]->requests().back().no_store) << "its tenant says so";
  ASSERT_TRUE(house.directory->change_tenant("local", [](auto& tenant) -> Result<void> {
    tenant.cache.no_store = false;
    return {};
  }));
  ASSERT_TRUE(house.generate("abc", 3)->wait());
  EXPECT_FALSE(house.engines[0]->requests().back().no_store);
}

TEST(Frontend, ATenantsCapCountsAllItsSequences) {
  House house({.tenant_sequences = 4});
  house.engines[0]->hold = true;
  auto request = House::text("abc");
  request.choices = 3;
  const auto first = house.generate(request);
  while (house.engines[0]->idle()) std::this_thread::yield();  // the first is there first
  const auto second = house.generate(request);
  ASSERT_TRUE(second->wait());
  ASSERT_TRUE(second->error);
  EXPECT_EQ(second->error->code, ErrorCode::resource_exhausted);
  EXPECT_EQ(second->error->reason, "tenant_sequences");
  EXPECT_GT(second->error->retry_after_ms, 0U);
  house.engines[0]->hold = false;
  ASSERT_TRUE(first->wait());
  EXPECT_FALSE(first->error);
  const auto third = house.generate(request);
  ASSERT_TRUE(third->wait());
  EXPECT_FALSE(third->error) << "the end of a request has freed its places";
}

TEST(Frontend, ATenantsRateIsLimited) {
  House house;
  house.caller.tenant = TenantId("slow");
  ASSERT_TRUE(house.generate("abc", 1)->wait());
  const auto second = house.generate("abc", 1);
  ASSERT_TRUE(second->wait());
  ASSERT_TRUE(second->error);
  EXPECT_EQ(second->error->reason, "tenant_requests_rate");
  EXPECT_GT(second->error->retry_after_ms, 50'000U);
}

TEST(Frontend, TheRoutersRateLimitsReachTheGateway) {
  struct Listener final : GenerationListener {
    void on_limits(const RateLimits& l) override { limits.set_value(l); }
    void on_delta(GenerationDelta&&) override {}
    void on_choice_end(std::uint32_t, FinishReason) override {}
    void on_end(const GenerationUsage&, std::optional<Error>) override { ended.set_value(); }
    std::promise<RateLimits> limits;
    std::promise<void> ended;
  };
  House house({.hold_embeddings = true});
  house.engines[0]->hold = true;
  const RateLimits limits{{60, 59, 1}, {}, {100, 10, 7}};
  auto listener = std::make_shared<Listener>();
  const auto stream = house.frontend->generate(house.caller, House::text("abc"), listener);
  caf::anon_send(caf::actor_cast<StreamSink>(house.open.actors().at(0)), limits);
  EXPECT_EQ(listener->limits.get_future().get().generated_tokens.reset_s, 7);
  stream->cancel();
  listener->ended.get_future().wait();

  std::promise<std::optional<RateLimits>> told;
  const auto cancel = house.frontend->embed(
      house.caller, {"e", {std::string("abc")}},
      [&](const Result<EmbedResponse>&, const auto& l) { told.set_value(l); });
  caf::anon_send(caf::actor_cast<EmbedSink>(house.open.actors().at(0)), limits);
  cancel();
  const auto heard = told.get_future().get();
  ASSERT_TRUE(heard);
  EXPECT_EQ(heard->requests.remaining, 59);
}

TEST(Frontend, OpenRequestsAndTheirBytesAreBounded) {
  House house({.most_requests = 3, .most_bytes = 100'000});
  house.engines[0]->hold = true;
  const auto big = house.generate(House::text(std::string(200'000, 'a')));
  ASSERT_TRUE(big->wait());
  EXPECT_EQ(big->error->reason, "request_memory");
  EXPECT_EQ(big->error->retry_after_ms, 0U) << "it never fits";
  std::vector<std::shared_ptr<Listener>> held;
  for (int i = 0; i < 3; ++i) held.push_back(house.generate("abc", 3));
  const auto refused = house.generate("abc", 3);
  ASSERT_TRUE(refused->wait());
  EXPECT_EQ(refused->error->reason, "open_requests");
  house.engines[0]->hold = false;
  for (const auto& answer : held) {
    ASSERT_TRUE(answer->wait());
    EXPECT_FALSE(answer->error);
  }
}

TEST(Frontend, UnderRedPressureNothingNewIsTaken) {
  House house;
  house.board->set_pressure(PressureLevel::red);
  const auto answer = house.generate("abc", 3);
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::resource_exhausted);
  EXPECT_EQ(answer->error->reason, "memory_pressure");
}

TEST(Frontend, TheLedgerIsAtItsBaselineAfterManyRequests) {
  House house;
  std::vector<std::shared_ptr<Listener>> answers;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 20; ++i) {
      auto request = House::text("request " + std::to_string(i));
      request.choices = 1 + i % 3;
      if (i % 5 == 0) request.stop = {"que"};
      answers.push_back(house.generate(std::move(request)));
      if (i % 7 == 0) answers.back()->stream->cancel();
    }
    for (const auto& answer : answers) ASSERT_TRUE(answer->wait());
    answers.clear();
  }
  EXPECT_EQ(house.open.count(), 0U);
  EXPECT_EQ(house.held(Component::requests), 0);
  EXPECT_EQ(house.held(Component::queues), 0);
  std::int64_t peak = 0;
  for (const auto& row : house.ledger.snapshot()) peak += row.peak_bytes;
  EXPECT_GT(peak, 0) << "it was charged at all";
}

TEST(Frontend, Authenticates) {
  cluster::Tenant acme;
  acme.name = "acme";
  acme.is_operator = true;
  // SHA-256 of "secret"
  acme.keys = {{"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}};
  House house({.tenants = {acme}});
  const auto caller = house.frontend->authenticate("secret");
  ASSERT_TRUE(caller);
  EXPECT_EQ(caller->tenant.get(), "acme");
  EXPECT_TRUE(caller->is_operator);
  for (const char* wrong : {"", "Secret", "secret "}) {
    EXPECT_EQ(house.frontend->authenticate(wrong).error().code, ErrorCode::unauthenticated);
  }
  const House local;
  EXPECT_EQ(local.frontend->authenticate("")->tenant.get(), "local");
  EXPECT_EQ(local.frontend->authenticate("sk-whatever")->tenant.get(), "local");
}

TEST(Frontend, WhatOfInputsWasNotComputedIsSaidAndCounted) {
  House house({.embedding_cached_tokens = 3});
  EmbedRequest request;
  request.model = "e";
  request.inputs = {std::string("abc"), std::vector<TokenId>{7, 8}};
  const auto made = house.embed(request);
  ASSERT_TRUE(made) << to_string(made.error());
  EXPECT_EQ(made->prompt_tokens, 5U);
  EXPECT_EQ(made->cached_tokens, 3U);
  cluster::Usage used;
  ASSERT_TRUE(call_router(house.router,
                          [&](auto& router, auto, auto&) { used = router.take_usage()["local"]; }));
  EXPECT_EQ(used.prompt_tokens, 5U);
  EXPECT_EQ(used.cached_tokens, 3U);
}

TEST(Frontend, Embeds) {
  House house;
  EmbedRequest request;
  request.model = "e";
  request.inputs = {std::string("abc"), std::vector<TokenId>{7, 8}};
  const auto made = house.embed(request);
  ASSERT_TRUE(made) << to_string(made.error());
  EXPECT_EQ(made->embeddings, (std::vector<std::vector<float>>{{3, 'a'}, {2, 7}}));
  EXPECT_EQ(made->prompt_tokens, 5U);
  const auto refused = [&](EmbedRequest r, ErrorCode code, const std::string& word) {
    const auto result = house.embed(std::move(r));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code);
    EXPECT_NE(result.error().message.find(word), std::string::npos) << result.error().message;
  };
  refused({"e", {}}, ErrorCode::invalid_argument, "empty");
  refused({"e", {std::string("a"), std::string()}}, ErrorCode::invalid_argument, "input[1]");
  refused({"e", {std::string(65, 'a')}}, ErrorCode::invalid_argument, "65 tokens");
  refused({"e", std::vector<std::variant<std::string, std::vector<TokenId>>>(2049, "a")},
          ErrorCode::invalid_argument, "2049 inputs");
  refused({"m", {std::string("a")}}, ErrorCode::invalid_argument, "makes text");
  refused({"x", {std::string("a")}}, ErrorCode::not_found, "'x'");
  EXPECT_EQ(house.held(Component::requests) + house.held(Component::queues), 0);
}

TEST(Frontend, AnEmbeddingCanBeCancelled) {
  House house({.hold_embeddings = true});
  std::promise<Result<EmbedResponse>> promise;
  const auto cancel = house.frontend->embed(
      house.caller, {"e", {std::string("abc")}},
      [&](Result<EmbedResponse> r, const auto&) { promise.set_value(std::move(r)); });
  cancel();
  cancel();
  EXPECT_EQ(promise.get_future().get().error().code, ErrorCode::cancelled);
}

TEST(Frontend, MetricsAndStatusTellWhatHappened) {
  House house;
  ASSERT_TRUE(house.generate("abc", 10)->wait());
  const auto text = house.frontend->metrics();
  for (const char* line :
       {"plimsoll_requests_total{code=\"ok\",model=\"m\",operation=\"generate\",tenant=\"local\"} "
        "1",
        "plimsoll_tokens_total{kind=\"generated\",model=\"m\",tenant=\"local\"} 10",
        "plimsoll_time_to_first_token_seconds_count{model=\"m\"} 1",
        "plimsoll_inter_token_latency_seconds_count{model=\"m\"} 9", "plimsoll_pressure_level 0",
        "plimsoll_node_ready{node=\"node-0\"} 1"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
  EXPECT_NE(text.find("component=\"unattributed\""), std::string::npos);
  const auto status = house.frontend->status();
  ASSERT_EQ(status.nodes.size(), 1U);
  EXPECT_EQ(status.nodes[0].state, "ready");
  EXPECT_TRUE(house.frontend->ready());
}

}  // namespace
}  // namespace plimsoll
