#include "engine/loop/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <iterator>
#include <mutex>
#include <semaphore>
#include <stdexcept>
#include <thread>

#include "tests/engine/loop/engine_harness.h"

namespace plimsoll::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

EngineConfig small() {
  EngineConfig config;
  config.limits = {.tokens = 64, .sequences = 8, .logit_rows = 8, .context_tokens = 512};
  config.chunk_tokens = 32;
  return config;
}

std::vector<TokenId> alone(const SequenceRequest& request, std::uint32_t vocab = 50) {
  return FakeModel::generate(request.prompt, request.sampling, request.max_new_tokens, vocab,
                             request.stop_tokens);
}

// A sequence that does not end while the test looks at it.
SequenceRequest endless(std::uint64_t id, const char* tenant = "alice") {
  auto request = make_request(id, make_prompt(5, id), 500, tenant);
  return request;
}

FakeModelOptions slow() {
  FakeModelOptions options;
  options.step_time = std::chrono::microseconds(500);
  return options;
}

TEST(Engine, GeneratesWhatTheModelDefines) {
  EngineHarness harness(small(), 32);
  const auto request = make_request(1, make_prompt(40, 1), 30);
  ASSERT_TRUE(harness.engine().submit(request));
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.tokens, alone(request));
  EXPECT_EQ(outcome.finish, FinishReason::length);
  EXPECT_EQ(outcome.usage.prompt_tokens, 40U);
  EXPECT_EQ(outcome.usage.generated_tokens, 30U);
  EXPECT_EQ(outcome.usage.cached_tokens, 0U);
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.prompt_tokens_total, 40U);
  EXPECT_EQ(stats.generated_tokens_total, 30U);
  EXPECT_EQ(stats.finished_total, 1U);
  EXPECT_EQ(stats.steps_total, 2U + 29U);  // two chunks of prefill, the second of which samples
}

TEST(Engine, StopTokensEndASequenceAndAreNotEmitted) {
  EngineHarness harness(small(), 32);
  auto request = make_request(1, make_prompt(10, 1), 100);
  const auto unstopped = alone(request);
  request.stop_tokens = {unstopped[7]};
  ASSERT_TRUE(harness.engine().submit(request));
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.finish, FinishReason::stop);
  EXPECT_EQ(outcome.tokens, alone(request));
  EXPECT_LE(outcome.tokens.size(), 7U);
  EXPECT_THAT(outcome.tokens, ::testing::Not(::testing::Contains(unstopped[7])));
}

TEST(Engine, GoesOnFromWhatWasGeneratedElsewhere) {
  EngineHarness harness(small(), 32);
  auto request = make_request(1, make_prompt(20, 1), 40);
  request.sampling.presence_penalty = 1;
  const auto whole = alone(request);
  request.resumed.assign(whole.begin(), whole.begin() + 15);
  ASSERT_TRUE(harness.engine().submit(request));
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.tokens, std::vector<TokenId>(whole.begin() + 15, whole.end()));
  EXPECT_EQ(outcome.usage.generated_tokens, 40U);
  // All of it was there already.
  request.id = RequestId{2};
  request.resumed = whole;
  ASSERT_TRUE(harness.engine().submit(request));
  EXPECT_EQ(harness.outcome(2).finish, FinishReason::length);
  EXPECT_TRUE(harness.outcome(2).tokens.empty());
}

TEST(Engine, ScoresThePromptInPiecesOfTheLogitRowCap) {
  EngineHarness harness(small(), 32);
  auto request = make_request(1, make_prompt(45, 1), 0);
  request.prompt_logprobs = true;
  request.sampling.top_logprobs = 3;
  ASSERT_TRUE(harness.engine().submit(request));
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.finish, FinishReason::length);
  EXPECT_TRUE(outcome.tokens.empty());
  ASSERT_EQ(outcome.prompt.size(), 45U);
  EXPECT_EQ(outcome.prompt[0].id, request.prompt[0]);
  Sampler sampler(50);
  for (std::size_t i = 1; i < 45; ++i) {
    const auto logits = FakeModel::logits_after(std::span(request.prompt).first(i), 50);
    const auto expected = sampler.score(logits, request.prompt[i], 3);
    EXPECT_EQ(outcome.prompt[i].id, request.prompt[i]);
    EXPECT_EQ(outcome.prompt[i].logprob, expected.logprob);
    ASSERT_EQ(outcome.prompt[i].top.size(), 3U);
    EXPECT_EQ(outcome.prompt[i].top[2].id, expected.top[2].id);
  }
}

TEST(Engine, EchoesAndThenGenerates) {
  EngineHarness harness(small(), 32);
  for (const std::size_t length : {1, 2, 8, 9, 33}) {
    auto request = make_request(length, make_prompt(length, length), 12);
    request.prompt_logprobs = true;
    ASSERT_TRUE(harness.engine().submit(request));
    const Outcome outcome = harness.outcome(length);
    EXPECT_EQ(outcome.prompt.size(), length);
    EXPECT_EQ(outcome.tokens, alone(request));
  }
  auto request = make_request(99, {7}, 0);
  request.prompt_logprobs = true;
  ASSERT_TRUE(harness.engine().submit(request));
  EXPECT_EQ(harness.outcome(99).prompt.size(), 1U);
}

TEST(Engine, CancelsWithinAStep) {
  std::atomic<int> steps{0};
  FakeModelOptions options = slow();
  options.on_forward = [&](auto) { ++steps; };
  EngineHarness harness(small(), 64, options);
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  ASSERT_TRUE(harness.wait_tokens(1, 3));
  harness.engine().cancel(RequestId{1});
  const int before = steps;
  EXPECT_EQ(harness.outcome(1).finish, FinishReason::cancelled);
  EXPECT_LE(steps, before + 2);           // the one that ran, and one that began meanwhile
  harness.engine().cancel(RequestId{1});  // of no effect
  harness.engine().cancel(RequestId{77});
  EXPECT_EQ(harness.engine().stats().cancelled_total, 1U);
}

TEST(Engine, WithoutCreditASequencePausesAndHoldsUpNoOther) {
  EngineHarness harness(small(), 64);
  auto request = make_request(1, make_prompt(10, 1), 50);
  request.credit = 5;
  ASSERT_TRUE(harness.engine().submit(request));
  ASSERT_TRUE(harness.engine().submit(make_request(2, make_prompt(10, 2), 50)));
  EXPECT_EQ(harness.outcome(2).tokens.size(), 50U);
  ASSERT_TRUE(harness.wait_tokens(1, 5));
  ASSERT_TRUE(harness.wait_stats([](const auto& s) { return s.paused == 1 && s.running == 0; }));
  EXPECT_EQ(harness.token_count(1), 5U);
  harness.engine().add_credit(RequestId{1}, 3);
  ASSERT_TRUE(harness.wait_tokens(1, 8));
  ASSERT_TRUE(harness.wait_stats([](const auto& s) { return s.paused == 1; }));
  EXPECT_EQ(harness.token_count(1), 8U);
  harness.engine().add_credit(RequestId{1}, 100);
  EXPECT_EQ(harness.outcome(1).tokens, alone(request));
}

TEST(Engine, APausedSequenceGivesWayAndComesBack) {
  EngineConfig config = small();
  config.prefix_sharing = false;
  EngineHarness harness(config, 4);
  auto sleeper = make_request(1, make_prompt(30, 1), 20);
  sleeper.credit = 2;
  ASSERT_TRUE(harness.engine().submit(sleeper));
  ASSERT_TRUE(harness.wait_tokens(1, 2));
  const auto big = make_request(2, make_prompt(50, 2), 14);  // the whole pool
  ASSERT_TRUE(harness.engine().submit(big));
  EXPECT_EQ(harness.outcome(2).tokens, alone(big));
  harness.engine().add_credit(RequestId{1}, 100);
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.tokens, alone(sleeper));
  EXPECT_EQ(outcome.usage.preemptions, 1U);
}

TEST(Engine, DeadlinesEndWaitingRunningAndPausedSequences) {
  EngineConfig config = small();
  config.limits.sequences = 1;
  EngineHarness harness(config, 64, slow());
  const auto soon = std::chrono::steady_clock::now() + 50ms;
  auto running = endless(1);
  running.deadline = soon;
  ASSERT_TRUE(harness.engine().submit(running));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  auto waiting = endless(2);
  waiting.deadline = soon;
  ASSERT_TRUE(harness.engine().submit(waiting));
  for (const std::uint64_t id : {1, 2}) {
    const Outcome outcome = harness.outcome(id);
    EXPECT_EQ(outcome.finish, FinishReason::error);
    EXPECT_EQ(outcome.error->code, ErrorCode::deadline_exceeded);
  }
  auto paused = endless(3);
  paused.deadline = std::chrono::steady_clock::now() + 20ms;
  paused.credit = 1;
  ASSERT_TRUE(harness.engine().submit(paused));
  EXPECT_EQ(harness.outcome(3).error->code, ErrorCode::deadline_exceeded);
}

TEST(Engine, RefusesASequenceThatWaitedTooLong) {
  EngineConfig config = small();
  config.limits.sequences = 1;
  config.queue_time = 30ms;
  EngineHarness harness(config, 64, slow());
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  ASSERT_TRUE(harness.engine().submit(endless(2)));
  const Outcome outcome = harness.outcome(2);
  EXPECT_EQ(outcome.error->code, ErrorCode::resource_exhausted);
  EXPECT_EQ(outcome.error->reason, "queue_time");
  EXPECT_GT(outcome.error->retry_after_ms, 0U);
  EXPECT_EQ(harness.engine().stats().refused_total, 1U);
  harness.engine().cancel(RequestId{1});
  EXPECT_EQ(harness.outcome(1).finish, FinishReason::cancelled);
}

TEST(Engine, BoundsTheQueueAndEachTenant) {
  EngineConfig config = small();
  config.limits.sequences = 1;
  config.queue_length = 3;
  config.tenant_sequences = 3;
  EngineHarness harness(config, 64, slow());
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  ASSERT_TRUE(harness.engine().submit(endless(2)));
  ASSERT_TRUE(harness.engine().submit(endless(3)));
  const auto over_cap = harness.engine().submit(endless(4));
  ASSERT_FALSE(over_cap);
  EXPECT_EQ(over_cap.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(over_cap.error().reason, "tenant_sequences");
  EXPECT_GT(over_cap.error().retry_after_ms, 0U);
  auto bobs = endless(5, "bob");
  bobs.credit = 0;  // stays in the queue
  ASSERT_TRUE(harness.engine().submit(bobs));
  const auto full = harness.engine().submit(endless(6, "carol"));
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().reason, "queue_full");
  const auto again = harness.engine().submit(endless(1, "carol"));
  ASSERT_FALSE(again);
  EXPECT_EQ(harness.engine().stats().refused_total, 3U);
  // Each end frees its place.
  harness.engine().cancel(RequestId{3});
  harness.outcome(3);
  EXPECT_TRUE(harness.engine().submit(endless(7)));
}

TEST(Engine, RefusesAnIdInUseUntilItIsFree) {
  EngineHarness harness(small(), 64, slow());
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  const auto again = harness.engine().submit(endless(1));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::invalid_argument);
}

TEST(Engine, RefusesWhatIsMalformedAndNamesIt) {
  EngineHarness harness(small(), 64);
  const auto refused = [&](auto change) {
    auto request = make_request(1, {1, 2, 3}, 10);
    change(request);
    const auto result = harness.engine().submit(std::move(request));
    EXPECT_FALSE(result);
    if (result) return std::string();
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    return result.error().param;
  };
  EXPECT_EQ(refused([](auto& r) { r.prompt.clear(); }), "prompt");
  EXPECT_EQ(refused([](auto& r) { r.prompt[1] = 50; }), "prompt");
  EXPECT_EQ(refused([](auto& r) { r.prompt[1] = -1; }), "prompt");
  EXPECT_EQ(refused([](auto& r) { r.prompt.resize(503); }), "prompt");
  EXPECT_EQ(refused([](auto& r) { r.max_new_tokens = ~0U; }), "prompt");
  EXPECT_EQ(refused([](auto& r) { r.max_new_tokens = 0; }), "max_tokens");
  EXPECT_EQ(refused([](auto& r) { r.weight = 0; }), "weight");
  EXPECT_EQ(refused([](auto& r) { r.resumed.resize(11); }), "resumed");
  EXPECT_EQ(refused([](auto& r) { r.resumed = {60}; }), "resumed");
  EXPECT_EQ(refused([](auto& r) { r.stop_tokens = {50}; }), "stop_tokens");
  EXPECT_EQ(refused([](auto& r) { r.stop_tokens.resize(2000); }), "stop_tokens");
  EXPECT_EQ(refused([](auto& r) { r.sampling.top_p = 0; }), "top_p");
  EXPECT_EQ(refused([](auto& r) { r.sampling.logit_bias = {{50, 1.0F}}; }), "logit_bias");
  EXPECT_TRUE(harness.engine().idle());
  EXPECT_EQ(harness.charged(Component::queues), 0);
}

TEST(Engine, RefusesWhatCanNeverFitWithTheArithmetic) {
  EngineHarness harness(small(), 4);
  const auto result = harness.engine().submit(make_request(1, make_prompt(50, 1), 16));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(result.error().retry_after_ms, 0U);
  EXPECT_THAT(result.error().message, HasSubstr("need 5 KV blocks of 16 tokens; the pool has 4"));
  // The last token is never fed back: 50 + 15 tokens' keys would be 5 blocks, 50 + 14 are 4.
  const auto fits = make_request(2, make_prompt(50, 1), 15);
  ASSERT_TRUE(harness.engine().submit(fits));
  EXPECT_EQ(harness.outcome(2).tokens, alone(fits));
}

TEST(Engine, ABudgetWithoutABlockIsRefusedAtTheStart) {
  Ledger ledger;
  EngineConfig config = small();
  config.kv_budget_bytes = 100;
  FakeModelOptions options;
  options.limits = config.limits;
  const auto engine =
      Engine::start(std::make_unique<FakeModel>(options), config, ledger, [](auto) {});
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, ErrorCode::resource_exhausted);
}

TEST(Engine, TakesAKnownBeginningFromTheTenantsOwnTree) {
  EngineHarness harness(small(), 64);
  const auto request = make_request(1, make_prompt(40, 1), 10);
  ASSERT_TRUE(harness.engine().submit(request));
  harness.outcome(1);

  auto follow_up = make_request(2, request.prompt, 10);
  const auto answer = harness.outcome(1).tokens;
  follow_up.prompt.insert(follow_up.prompt.end(), answer.begin(), answer.end());
  follow_up.prompt.push_back(1);
  ASSERT_TRUE(harness.engine().submit(follow_up));
  EXPECT_EQ(harness.outcome(2).tokens, alone(follow_up));
  EXPECT_EQ(harness.outcome(2).usage.cached_tokens, 48U);  // 32 of the prompt, 16 with its answer

  auto stranger = make_request(3, request.prompt, 10, "bob");
  ASSERT_TRUE(harness.engine().submit(stranger));
  EXPECT_EQ(harness.outcome(3).tokens, alone(stranger));
  EXPECT_EQ(harness.outcome(3).usage.cached_tokens, 0U);

  // A group of a tenant's name is not the tenant.
  stranger.id = RequestId{4};
  stranger.sharing_group = "alice";
  ASSERT_TRUE(harness.engine().submit(stranger));
  EXPECT_EQ(harness.outcome(4).usage.cached_tokens, 0U);
  auto member = make_request(5, request.prompt, 10, "carol");
  member.sharing_group = "alice";
  ASSERT_TRUE(harness.engine().submit(member));
  EXPECT_EQ(harness.outcome(5).tokens, alone(member));
  EXPECT_EQ(harness.outcome(5).usage.cached_tokens, 32U);
  EXPECT_EQ(harness.engine().stats().cached_prompt_tokens_total, 80U);
}

TEST(Engine, KeepsNoMoreOfATenantThanItMayCache) {
  EngineHarness harness(small(), 64);
  auto request = make_request(1, make_prompt(80, 1), 1);
  request.cache_bytes = 3 * harness.block_bytes() + 1;
  ASSERT_TRUE(harness.engine().submit(request));
  harness.outcome(1);
  EXPECT_EQ(harness.engine().stats().kv_blocks_cached, 3U);
  request.id = RequestId{2};
  ASSERT_TRUE(harness.engine().submit(request));
  EXPECT_EQ(harness.outcome(2).usage.cached_tokens, 48U);
  EXPECT_EQ(harness.outcome(2).tokens, alone(request));

  auto other = make_request(3, make_prompt(80, 2), 1, "bob");
  ASSERT_TRUE(harness.engine().submit(other));
  harness.outcome(3);
  EXPECT_EQ(harness.engine().stats().kv_blocks_cached, 3U + 5U);
}

TEST(Engine, SharesAPromptWhileItsFirstSequenceStillRuns) {
  EngineHarness harness(small(), 64, slow());
  auto first = endless(1);
  first.prompt = make_prompt(40, 1);
  first.max_new_tokens = 400;
  ASSERT_TRUE(harness.engine().submit(first));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  const auto second = make_request(2, first.prompt, 10);
  ASSERT_TRUE(harness.engine().submit(second));
  EXPECT_EQ(harness.outcome(2).tokens, alone(second));
  EXPECT_EQ(harness.outcome(2).usage.cached_tokens, 32U);
}

TEST(Engine, PressureShrinksWhatIsCachedAndRedRefuses) {
  EngineHarness harness(small(), 64);
  const auto run = [&](std::uint64_t id) {
    const auto request = make_request(id, make_prompt(100, id), 10);
    EXPECT_TRUE(harness.engine().submit(request));
    EXPECT_EQ(harness.outcome(id).tokens, alone(request));
  };
  const auto cached = [&](std::uint32_t blocks) {
    return harness.wait_stats([&](const auto& s) { return s.kv_blocks_cached == blocks; });
  };
  run(1);
  run(2);
  EXPECT_TRUE(cached(12));
  const auto charged = harness.charged(Component::kv);
  harness.engine().set_pressure(PressureLevel::yellow);
  run(3);  // in place of the oldest
  EXPECT_TRUE(cached(12));
  harness.engine().set_pressure(PressureLevel::orange);
  EXPECT_TRUE(cached(8));
  EXPECT_LT(harness.charged(Component::kv), charged);
  run(4);
  harness.engine().set_pressure(PressureLevel::red);
  EXPECT_TRUE(cached(0));
  EXPECT_EQ(harness.charged(Component::kv), 0);
  const auto refused = harness.engine().submit(make_request(5, {1}, 10));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(refused.error().retry_after_ms, 1000U);
  harness.engine().set_pressure(PressureLevel::green);
  run(6);
  EXPECT_TRUE(cached(6));
}

TEST(Engine, ASequenceGoesOnUnderRedAndItsBlocksGoBackToTheKernel) {
  EngineHarness harness(small(), 64, slow());
  const auto request = make_request(1, make_prompt(100, 1), 60);
  ASSERT_TRUE(harness.engine().submit(request));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  harness.engine().set_pressure(PressureLevel::red);
  EXPECT_EQ(harness.outcome(1).tokens, alone(request));
  EXPECT_EQ(harness.charged(Component::kv), 0);
}

class Sheds {
 public:
  std::function<void(const Shed&)> sink() {
    return [this](const Shed& shed) {
      const std::lock_guard lock(mutex_);
      all_.push_back(shed);
    };
  }
  std::vector<Shed> of(Shed::Kind kind) {
    const std::lock_guard lock(mutex_);
    std::vector<Shed> out;
    std::ranges::copy_if(all_, std::back_inserter(out),
                         [&](const Shed& s) { return s.kind == kind; });
    return out;
  }

 private:
  std::mutex mutex_;
  std::vector<Shed> all_;
};

// One tenant holds most of the pool, when memory is to be freed.
struct Crowd {
  explicit Crowd(Sheds& sheds) : harness(config(sheds), 48, slow()) {
    for (const auto& request : greedy) EXPECT_TRUE(harness.engine().submit(request));
    EXPECT_TRUE(harness.engine().submit(modest));
    for (const std::uint64_t id : {1, 2, 3, 9}) EXPECT_TRUE(harness.wait_tokens(id, 1));
  }
  static EngineConfig config(Sheds& sheds) {
    auto config = small();
    config.on_shed = sheds.sink();
    config.prefix_sharing = false;
    return config;
  }
  std::vector<SequenceRequest> greedy = {make_request(1, make_prompt(100, 1), 60, "greedy"),
                                         make_request(2, make_prompt(180, 2), 60, "greedy"),
                                         make_request(3, make_prompt(100, 3), 60, "greedy")};
  SequenceRequest modest = make_request(9, make_prompt(60, 9), 60, "modest");
  EngineHarness harness;
};

TEST(Engine, OrangePreemptsTheTenantThatHoldsMostAndLosesNothing) {
  Sheds sheds;
  Crowd crowd(sheds);
  auto& harness = crowd.harness;
  harness.engine().set_pressure({PressureLevel::orange, 8 * harness.block_bytes(), "why"});
  for (const auto& request : crowd.greedy) {
    EXPECT_EQ(harness.outcome(request.id.get()).tokens, alone(request));
  }
  EXPECT_EQ(harness.outcome(9).tokens, alone(crowd.modest));
  const auto preempted = sheds.of(Shed::Kind::preempt);
  ASSERT_EQ(preempted.size(), 1U);
  EXPECT_EQ(preempted[0].tenant, TenantId{"greedy"});
  EXPECT_GE(preempted[0].bytes, 8 * harness.block_bytes());
  EXPECT_EQ(preempted[0].cause, "why");
  EXPECT_TRUE(sheds.of(Shed::Kind::cancel).empty());
}

TEST(Engine, RedEndsTheLongestOfTheTenantOverItsShareAndNobodyElses) {
  Sheds sheds;
  Crowd crowd(sheds);
  auto& harness = crowd.harness;
  harness.engine().set_pressure({PressureLevel::red, 8 * harness.block_bytes(), "why"});
  const auto ended = harness.outcome(2);
  ASSERT_TRUE(ended.error);
  EXPECT_EQ(ended.error->code, ErrorCode::resource_exhausted);
  EXPECT_EQ(ended.error->reason, "memory_shed");
  EXPECT_GT(ended.error->retry_after_ms, 0U);
  EXPECT_EQ(harness.outcome(9).tokens, alone(crowd.modest));
  EXPECT_EQ(harness.outcome(1).tokens, alone(crowd.greedy[0]));
  EXPECT_EQ(harness.outcome(3).tokens, alone(crowd.greedy[2]));
  const auto cancelled = sheds.of(Shed::Kind::cancel);
  ASSERT_EQ(cancelled.size(), 1U);
  EXPECT_EQ(cancelled[0].tenant, TenantId{"greedy"});
  EXPECT_EQ(cancelled[0].count, 1U);
}

// However much memory is wanted: who holds no more than its share of the pool waits for it.
TEST(Engine, RedEndsNothingOfTenantsWithinTheirShares) {
  Sheds sheds;
  auto config = small();
  config.on_shed = sheds.sink();
  config.prefix_sharing = false;
  EngineHarness harness(config, 64, slow());
  const auto first = make_request(1, make_prompt(100, 1), 60, "first");
  const auto second = make_request(2, make_prompt(180, 2), 60, "second");
  for (const auto& request : {first, second}) EXPECT_TRUE(harness.engine().submit(request));
  for (const std::uint64_t id : {1, 2}) EXPECT_TRUE(harness.wait_tokens(id, 1));
  harness.engine().set_pressure({PressureLevel::red, 64 * harness.block_bytes(), "why"});
  for (int i = 0; i < 5000 && sheds.of(Shed::Kind::preempt).empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_FALSE(sheds.of(Shed::Kind::preempt).empty());
  harness.engine().set_pressure({PressureLevel::green, 0, ""});
  EXPECT_EQ(harness.outcome(1).tokens, alone(first));
  EXPECT_EQ(harness.outcome(2).tokens, alone(second));
  EXPECT_TRUE(sheds.of(Shed::Kind::cancel).empty());
}

// A tenant alone is nobody's culprit: it waits, and nothing of it is lost.
TEST(Engine, RedEndsNothingOfATenantThatIsAlone) {
  Sheds sheds;
  EngineHarness harness(Crowd::config(sheds), 64, slow());
  std::vector<SequenceRequest> requests;
  for (std::uint64_t id = 1; id <= 3; ++id) {
    requests.push_back(make_request(id, make_prompt(100, id), 40));
    ASSERT_TRUE(harness.engine().submit(requests.back()));
  }
  for (std::uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(harness.wait_tokens(id, 1));
  harness.engine().set_pressure({PressureLevel::red, 1000 * harness.block_bytes(), "why"});
  EXPECT_EQ(harness.outcome(1).tokens, alone(requests[0]));  // the oldest goes on
  harness.engine().set_pressure(PressureLevel::green);
  for (const auto& request : requests) {
    EXPECT_EQ(harness.outcome(request.id.get()).tokens, alone(request));
  }
  EXPECT_TRUE(sheds.of(Shed::Kind::cancel).empty());
  EXPECT_FALSE(sheds.of(Shed::Kind::preempt).empty());
  const auto refused = sheds.of(Shed::Kind::refuse);
  EXPECT_TRUE(refused.empty());
}

// Where only one is left, and it is what does not fit: it waits, and loses nothing.
TEST(Engine, RedLetsTheLastSequenceWaitWhereItIsWhatDoesNotFit) {
  Sheds sheds;
  EngineHarness harness(Crowd::config(sheds), 64, slow());
  const auto request = make_request(1, make_prompt(100, 1), 400);
  ASSERT_TRUE(harness.engine().submit(request));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  harness.engine().set_pressure({PressureLevel::red, 2 * harness.block_bytes(), "why"});
  ASSERT_TRUE(harness.wait_stats([](const auto& s) { return s.running == 0; }));
  const auto steps = harness.engine().stats().steps_total;
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(harness.engine().stats().steps_total, steps) << "it does not come back by itself";
  harness.engine().set_pressure(PressureLevel::green);
  EXPECT_EQ(harness.outcome(1).tokens, alone(request));
  EXPECT_TRUE(sheds.of(Shed::Kind::cancel).empty());
  EXPECT_EQ(sheds.of(Shed::Kind::preempt).size(), 1U);
}

TEST(Engine, RefusesAtOnceWhatWouldWaitLongerThanItsObjective) {
  auto config = small();
  config.ttft_objective = 200ms;
  FakeModelOptions options;
  options.on_forward = [](std::span<const SequenceChunk> chunks) {
    std::size_t tokens = 4;
    for (const auto& chunk : chunks) tokens += chunk.tokens.size();
    std::this_thread::sleep_for(tokens * 50us);
  };
  EngineHarness harness(config, 256, options);
  std::uint64_t id = 0;
  const auto submit = [&](CapacityClass c, const char* tenant = "alice") {
    ++id;
    auto request = make_request(id, make_prompt(400, id), 2, tenant);  // 20 ms
    request.capacity_class = c;
    return harness.engine().submit(std::move(request));
  };
  ASSERT_TRUE(submit(CapacityClass::low_latency));
  EXPECT_EQ(harness.outcome(id).tokens.size(), 2U);  // now it knows its pace
  std::uint64_t accepted = 0;
  Result<void> last;
  while (accepted < 40 && (last = submit(CapacityClass::low_latency))) ++accepted;
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().reason, "queue_wait");
  EXPECT_EQ(last.error().code, ErrorCode::resource_exhausted);
  EXPECT_GE(last.error().retry_after_ms, 1000U);
  EXPECT_GE(accepted, 3U);
  EXPECT_LE(accepted, 14U) << "of 10 ideally";
  EXPECT_TRUE(submit(CapacityClass::batch)) << "may wait";
  EXPECT_TRUE(submit(CapacityClass::low_latency, "bob")) << "has nothing ahead but a fair part";
}

// Steps as slow as a test lets them be.
struct Steps {
  std::counting_semaphore<> permits{0};
  FakeModelOptions options() {
    FakeModelOptions options;
    options.on_forward = [this](std::span<const SequenceChunk>) {
      (void)permits.try_acquire_for(10s);
    };
    return options;
  }
};

TEST(Engine, StepsStartAllThatFindMostOfTheirPrompts) {
  auto config = small();
  config.step_cost = {.base = 1e-3, .per_token = 1e-3, .per_attended = 0, .per_row = 0};
  Steps steps;
  EngineHarness harness(config, 256, steps.options());
  steps.permits.release(10'000);
  ASSERT_TRUE(harness.engine().submit(make_request(1, make_prompt(385, 1), 2)));
  ASSERT_EQ(harness.outcome(1).tokens.size(), 2U);
  while (steps.permits.try_acquire()) {
  }
  // Beside one that decodes prompts have 28 ms, and these would take 385 each if nothing were
  // known.
  ASSERT_TRUE(harness.engine().submit(endless(2)));
  for (std::uint64_t id = 3; id < 8; ++id) {
    ASSERT_TRUE(harness.engine().submit(make_request(id, make_prompt(385, 1), 20)));
  }
  const auto before = harness.engine().stats().steps_total;
  steps.permits.release(3);
  EXPECT_TRUE(harness.wait_tokens(7, 1));
  EXPECT_LE(harness.engine().stats().steps_total, before + 3);
  harness.engine().cancel(RequestId{2});
  steps.permits.release(10'000);
}

TEST(Engine, WhatWasKnownOfEarlierPromptsIsNotExpectedOfThoseThatCame) {
  auto config = small();
  config.ttft_objective = 1s;
  config.chunk_tokens = config.limits.tokens;
  config.step_cost = {.base = 1e-3, .per_token = 1e-3, .per_attended = 0, .per_row = 0};
  Steps steps;
  EngineHarness harness(config, 512, steps.options());
  steps.permits.release(10'000);
  std::uint64_t id = 0;
  for (int i = 0; i < 60; ++i) {
    ASSERT_TRUE(harness.engine().submit(make_request(++id, make_prompt(400, 1), 2)));
    ASSERT_EQ(harness.outcome(id).tokens.size(), 2U);
  }
  while (steps.permits.try_acquire()) {
  }
  // One comes in each step, with 64 tokens a step to compute, and all would take 0.4 s.
  int accepted = 0;
  for (; accepted < 30; ++accepted) {
    const auto step = harness.engine().stats().steps_total;
    if (!harness.engine().submit(make_request(++id, make_prompt(400, id), 2))) break;
    steps.permits.release();
    ASSERT_TRUE(harness.wait_stats([&](const auto& s) { return s.steps_total > step; }));
  }
  EXPECT_GE(accepted, 2);
  EXPECT_LE(accepted, 5);
  steps.permits.release(10'000);
}

TEST(Engine, RedAdmitsWhatIsGuaranteedAndNothingElse) {
  Sheds sheds;
  EngineHarness harness(Crowd::config(sheds), 64);
  harness.engine().set_pressure({PressureLevel::red, 0, "why"});
  EXPECT_FALSE(harness.engine().submit(make_request(1, make_prompt(20, 1), 5)));
  ASSERT_EQ(sheds.of(Shed::Kind::refuse).size(), 1U);
  EXPECT_EQ(sheds.of(Shed::Kind::refuse)[0].tenant, TenantId{"alice"});
  auto paid = make_request(2, make_prompt(20, 2), 5, "bob");
  paid.guaranteed_bytes = 8 * harness.block_bytes();
  ASSERT_TRUE(harness.engine().submit(paid));
  EXPECT_EQ(harness.outcome(2).tokens, alone(paid));
}

// Three that fit now and could not all fit at their end: the third waits, and nobody is preempted.
TEST(Engine, TheWorstCaseIsReservedBeforeASequenceStarts) {
  EngineHarness harness(small(), 64, slow());
  std::vector<SequenceRequest> requests;
  for (std::uint64_t id = 1; id <= 3; ++id) {
    requests.push_back(make_request(id, make_prompt(20, id), 400));
    requests.back().worst_case = true;
    ASSERT_TRUE(harness.engine().submit(requests.back()));
  }
  EXPECT_TRUE(harness.wait_stats([](const auto& s) { return s.running == 2 && s.waiting == 1; }));
  for (const auto& request : requests) {
    EXPECT_EQ(harness.outcome(request.id.get()).tokens, alone(request));
    EXPECT_EQ(harness.outcome(request.id.get()).usage.preemptions, 0U) << request.id.get();
  }
}

// What a tenant's generations came to decides how many start together: here more than worst cases.
TEST(Engine, WhatWasLearntOfLengthsLetsMoreStart) {
  EngineHarness harness(small(), 64, slow());
  std::uint64_t id = 0;
  const auto short_one = [&] {
    ++id;
    auto request = make_request(id, make_prompt(20, id), 400);
    request.stop_tokens = {};
    for (TokenId token = 0; token < 50; token += 4) request.stop_tokens.push_back(token);
    return request;
  };
  for (int i = 0; i < 20; ++i) {
    const auto request = short_one();
    ASSERT_TRUE(harness.engine().submit(request));
    ASSERT_LT(harness.outcome(id).tokens.size(), 100U);
  }
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(harness.engine().submit(endless(++id)));
  EXPECT_TRUE(harness.wait_stats([](const auto& s) { return s.running == 4; }));
}

TEST(Engine, DrainFinishesWhatItHasAndTakesNothingNew) {
  EngineHarness harness(small(), 64);
  const auto request = make_request(1, make_prompt(10, 1), 100);
  ASSERT_TRUE(harness.engine().submit(request));
  harness.engine().drain(std::chrono::steady_clock::now() + 20s);
  const auto refused = harness.engine().submit(make_request(2, {1}, 10));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
  EXPECT_EQ(harness.outcome(1).tokens, alone(request));
  EXPECT_TRUE(harness.wait_idle());
}

TEST(Engine, DrainEndsAtItsDeadline) {
  EngineHarness harness(small(), 64, slow());
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  auto paused = endless(2);
  paused.credit = 1;
  ASSERT_TRUE(harness.engine().submit(paused));
  ASSERT_TRUE(harness.wait_tokens(2, 1));
  harness.engine().drain(std::chrono::steady_clock::now() + 20ms);
  for (const std::uint64_t id : {1, 2}) {
    EXPECT_EQ(harness.outcome(id).finish, FinishReason::error);
    EXPECT_EQ(harness.outcome(id).error->code, ErrorCode::unavailable);
  }
  EXPECT_TRUE(harness.wait_idle());
}

TEST(Engine, ItsEndCancelsWhatIsLeft) {
  EngineHarness harness(small(), 64, slow());
  auto waiting = endless(2);
  waiting.credit = 0;
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  ASSERT_TRUE(harness.engine().submit(waiting));
  harness.stop();
  EXPECT_EQ(harness.outcome(1).finish, FinishReason::cancelled);
  EXPECT_EQ(harness.outcome(2).finish, FinishReason::cancelled);
  for (const LedgerRow& row : harness.ledger().snapshot()) EXPECT_EQ(row.bytes, 0);
}

TEST(Engine, AFailedStepEndsItsSequencesOnly) {
  std::atomic<bool> broken{false};
  FakeModelOptions options = slow();
  options.on_forward = [&](auto) {
    if (broken.exchange(false)) throw std::runtime_error("bit rot");
  };
  EngineHarness harness(small(), 64, options);
  auto bystander = make_request(2, make_prompt(10, 2), 20);
  bystander.credit = 1;
  ASSERT_TRUE(harness.engine().submit(bystander));
  ASSERT_TRUE(harness.wait_tokens(2, 1));
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  broken = true;
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.finish, FinishReason::error);
  EXPECT_EQ(outcome.error->code, ErrorCode::internal);
  EXPECT_THAT(outcome.error->message, HasSubstr("bit rot"));
  harness.engine().add_credit(RequestId{2}, 100);
  EXPECT_EQ(harness.outcome(2).tokens, alone(bystander));
}

TEST(Engine, LogitsThatAreNoNumbersEndTheirSequenceOnly) {
  FakeModelOptions options;
  options.nan_after = 42;
  EngineHarness harness(small(), 64, options);
  ASSERT_TRUE(harness.engine().submit(make_request(1, {1, 42}, 10)));
  auto other = make_request(2, {1, 2}, 3);
  other.sampling.logit_bias = {{42, -100.0F}};
  ASSERT_TRUE(harness.engine().submit(other));
  const Outcome outcome = harness.outcome(1);
  EXPECT_EQ(outcome.error->code, ErrorCode::internal);
  EXPECT_THAT(outcome.error->message, HasSubstr("position 2"));
  EXPECT_EQ(harness.outcome(2).tokens.size(), 3U);
}

TEST(Engine, AListenerThatThrowsHarmsNobody) {
  Ledger ledger;
  EngineConfig config = small();
  config.kv_budget_bytes = 1_MiB;
  FakeModelOptions options;
  options.limits = config.limits;
  auto engine = Engine::start(std::make_unique<FakeModel>(options), config, ledger,
                              [](auto) { throw std::runtime_error("listener"); });
  ASSERT_TRUE(engine);
  ASSERT_TRUE((*engine)->submit(make_request(1, {1, 2}, 5)));
  for (int i = 0; i < 5000 && !(*engine)->idle(); ++i) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE((*engine)->idle());
}

TEST(Engine, ChargesTheEndpointThatARequestCameBy) {
  EngineHarness harness(small(), 64, slow());
  const auto bytes = [&](Component component, Endpoint endpoint) {
    return harness.ledger().account(component, "fake@1", TenantId{"alice"}, endpoint).bytes();
  };
  auto chat = endless(1);
  chat.endpoint = Endpoint::chat_completions;
  ASSERT_TRUE(harness.engine().submit(chat));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  for (const auto component : {Component::requests, Component::kv}) {
    EXPECT_GT(bytes(component, Endpoint::chat_completions), 0);
    EXPECT_EQ(bytes(component, Endpoint::completions), 0);
    EXPECT_EQ(bytes(component, Endpoint::none), 0);
  }
}

TEST(Engine, ChargesARequestToItsTenantFromSubmissionToEnd) {
  EngineConfig config = small();
  config.limits.sequences = 1;
  EngineHarness harness(config, 64, slow());
  const auto bytes = [&](Component component, const char* tenant) {
    return harness.ledger().account(component, "fake@1", TenantId{tenant}).bytes();
  };
  ASSERT_TRUE(harness.engine().submit(endless(1)));
  ASSERT_TRUE(harness.wait_tokens(1, 1));
  EXPECT_GE(bytes(Component::requests, "alice"), 505 * 4);
  EXPECT_EQ(bytes(Component::queues, "alice"), 0);
  auto waiting = endless(2, "bob");
  waiting.credit = 0;
  ASSERT_TRUE(harness.engine().submit(waiting));
  EXPECT_GE(bytes(Component::queues, "bob"), 505 * 4);
  EXPECT_EQ(bytes(Component::requests, "bob"), 0);
  for (const std::uint64_t id : {1, 2}) {
    harness.engine().cancel(RequestId{id});
    harness.outcome(id);
  }
  ASSERT_TRUE(harness.wait_idle());
  EXPECT_EQ(harness.charged(Component::requests) + harness.charged(Component::queues), 0);
}

// Alice has every place and a full queue; Bob's requests, one at a time, take no longer than a few
// steps more than they would alone.
TEST(Engine, AFloodOfOneTenantDoesNotStarveAnother) {
  std::atomic<int> steps{0};
  FakeModelOptions options;
  options.on_forward = [&](auto) { ++steps; };
  options.step_time = std::chrono::microseconds(1000);  // long next to this thread's waking up
  EngineConfig config = small();
  EngineHarness harness(config, 200, options);
  for (std::uint64_t id = 100; id < 160; ++id) {
    auto request = make_request(id, make_prompt(60, id), 400, "alice");
    ASSERT_TRUE(harness.engine().submit(request));
  }
  ASSERT_TRUE(harness.wait_tokens(100, 10));
  for (std::uint64_t id = 1; id <= 5; ++id) {
    const int before = steps;
    const auto request = make_request(id, make_prompt(20, id), 10, "bob");
    ASSERT_TRUE(harness.engine().submit(request));
    EXPECT_EQ(harness.outcome(id).tokens, alone(request));
    EXPECT_LE(steps - before, 20) << "alone it takes 10 steps";
  }
}

// Bob was served little, and then was away while Alice used the engine alone. When both come back,
// they take turns: he is not owed what he did not ask for.
TEST(Engine, ATenantThatComesBackIsNotOwedWhatItMissed) {
  std::vector<TokenId> begun;  // the first token of each sequence's prompt, on the engine's thread
  FakeModelOptions options = slow();
  options.on_forward = [&](std::span<const SequenceChunk> chunks) {
    if (chunks[0].start_position == 0) begun.push_back(chunks[0].tokens[0]);
  };
  EngineConfig config = small();
  config.limits.sequences = 1;
  config.prefix_sharing = false;
  EngineHarness harness(config, 64, options);
  const char* tenants[] = {"", "alice", "bob", "carol"};
  const auto submit = [&](std::uint64_t id, TokenId mark, std::uint32_t answer) {
    ASSERT_TRUE(harness.engine().submit(make_request(id, {mark, 2, 3}, answer, tenants[mark])));
  };
  submit(2, 2, 1);
  harness.outcome(2);
  submit(1, 1, 200);
  harness.outcome(1);
  submit(3, 3, 200);
  ASSERT_TRUE(harness.wait_tokens(3, 1));  // the rest arrives while it runs
  for (std::uint64_t id = 10; id < 16; ++id) submit(id, id % 2 == 0 ? 1 : 2, 20);
  for (std::uint64_t id = 10; id < 16; ++id) harness.outcome(id);
  harness.stop();
  ASSERT_EQ(begun.size(), 9U);
  EXPECT_THAT(std::vector<TokenId>(begun.begin() + 3, begun.end()), ElementsAre(2, 1, 2, 1, 2, 1));
}

// Seed, prompt and parameters decide the text: not the company, nor the pool's size.
TEST(Engine, ASeedGivesTheSameTextInAnyCompany) {
  auto request = make_request(1, make_prompt(30, 5), 60);
  request.sampling.seed = 1234;
  request.sampling.top_p = 0.9F;
  std::vector<std::vector<TokenId>> texts;
  for (const std::uint32_t blocks : {7U, 12U, 64U}) {
    for (const int company : {0, 6}) {
      EngineHarness harness(small(), blocks);
      for (int i = 0; i < company; ++i) {
        ASSERT_TRUE(harness.engine().submit(
            make_request(10 + static_cast<std::uint64_t>(i), make_prompt(25, 9), 60, "bob")));
      }
      ASSERT_TRUE(harness.engine().submit(request));
      texts.push_back(harness.outcome(1).tokens);
    }
  }
  for (const auto& text : texts) EXPECT_EQ(text, texts[0]);
}

// Of three layers one sees all tokens, the others 40.
TEST(Engine, KeepsOfWindowedLayersAWindowOnly) {
  FakeModelOptions model;
  model.window = 40;
  std::uint32_t most = 0;
  EngineHarness* engine = nullptr;
  model.on_forward = [&](auto) {
    most = std::max(most, static_cast<std::uint32_t>(engine->charged(Component::kv) /
                                                     static_cast<std::int64_t>(1024)));
  };
  EngineConfig config = small();
  config.prefix_sharing = false;
  EngineHarness harness(config, 60, model);
  engine = &harness;
  const auto request = make_request(1, make_prompt(200, 1), 200);
  ASSERT_TRUE(harness.engine().submit(request));
  EXPECT_EQ(harness.outcome(1).tokens, alone(request));
  // 25 rows; of the windowed groups no more than 40 tokens and a chunk: 5 to 6 rows.
  EXPECT_GE(most, 25U + 2 * 3);
  EXPECT_LE(most, 25U + 2 * 6);
  // What has gone on to be free may be resident still, but nothing holds it.
  EXPECT_EQ(harness.engine().stats().kv_blocks_used, 0U);

  auto longest = make_request(2, make_prompt(500, 1), 12);
  ASSERT_TRUE(harness.engine().submit(longest)) << "32 rows, 44 blocks";
  EXPECT_EQ(harness.outcome(2).tokens, alone(longest));
}

TEST(Engine, APromptIsFoundAgainHoweverLongItsAnswerWas) {
  FakeModelOptions model;
  model.window = 40;
  for (const std::size_t tokens : {160U, 161U, 175U}) {
    EngineHarness harness(small(), 400, model);
    for (std::uint64_t id = 1; id <= 3; ++id) {
      const auto request = make_request(id, make_prompt(tokens, 1), 200);
      ASSERT_TRUE(harness.engine().submit(request));
      EXPECT_EQ(harness.outcome(id).tokens, alone(request));
      EXPECT_EQ(harness.outcome(id).usage.cached_tokens, id == 1 ? 0 : (tokens - 1) / 16 * 16);
    }
  }
}

TEST(Engine, AConversationGoesOnBehindAWindowWhereverItStopped) {
  FakeModelOptions model;
  model.window = 40;
  for (std::uint32_t answer = 40; answer < 60; ++answer) {
    EngineHarness harness(small(), 400, model);
    auto request = make_request(1, make_prompt(100, 1), answer);
    ASSERT_TRUE(harness.engine().submit(request));
    auto next = make_request(2, request.prompt, 10);
    for (const TokenId token : harness.outcome(1).tokens) next.prompt.push_back(token);
    for (const TokenId token : make_prompt(30, 2)) next.prompt.push_back(token);
    ASSERT_TRUE(harness.engine().submit(next));
    EXPECT_EQ(harness.outcome(2).tokens, alone(next));
    EXPECT_EQ(harness.outcome(2).usage.cached_tokens, (100 + answer - 1) / 16 * 16) << answer;
  }
}

TEST(Engine, APromptsBeginningIsFoundBehindAWindowWhereSeveralHaveIt) {
  FakeModelOptions model;
  model.window = 40;
  EngineHarness harness(small(), 400, model);
  const auto run = [&](std::uint64_t id) {
    auto prompt = make_prompt(160, 1);
    const auto own = make_prompt(150, 100 + id);
    prompt.insert(prompt.end(), own.begin(), own.end());
    const auto request = make_request(id, prompt, 20);
    EXPECT_TRUE(harness.engine().submit(request));
    EXPECT_EQ(harness.outcome(id).tokens, alone(request));
    return harness.outcome(id).usage.cached_tokens;
  };
  EXPECT_EQ(run(1), 0U);
  EXPECT_EQ(run(2), 0U) << "nobody knew where the texts would part";
  EXPECT_EQ(run(3), 160U);
  EXPECT_EQ(run(4), 160U);
}

}  // namespace
}  // namespace plimsoll::testing
