#include "engine/loop/embedding_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "tests/engine/loop/engine_harness.h"
#include "tests/engine/loop/fake_model.h"

namespace plimsoll::testing {
namespace {

using Batch = std::span<const std::span<const TokenId>>;

// Lets the engine's thread into its steps one at a time, or freely.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_ || permits_ > 0; });
    if (!open_) --permits_;
    --waiting_;
  }
  void permit() {
    const std::lock_guard lock(mutex_);
    ++permits_;
    changed_.notify_all();
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait_for_visitor() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 20s, [&] { return waiting_ > 0; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int permits_ = 0, waiting_ = 0;
};

EmbeddingEngineConfig small() {
  EmbeddingEngineConfig config;
  config.model_version = "fake@1";
  config.limits = {.tokens = 64, .sequences = 8, .logit_rows = 1, .context_tokens = 40};
  config.max_batch = 4;
  return config;
}

class EmbeddingEngineTest : public ::testing::Test {
 protected:
  ~EmbeddingEngineTest() override {
    gate_.open();
    stop();
  }
  void start(const EmbeddingEngineConfig& config = small()) {
    auto model = std::make_unique<FakeEmbeddingModel>(config.limits, 8, [this](Batch batch) {
      {
        const std::lock_guard lock(mutex_);
        batches_.emplace_back();
        for (const auto& input : batch) batches_.back().push_back(input[0]);
      }
      gate_.pass();
      if (broken_.exchange(false)) throw std::runtime_error("bit rot");
    });
    auto engine = EmbeddingEngine::start(std::move(model), config, ledger_);
    ASSERT_TRUE(engine);
    engine_ = std::move(*engine);
  }
  void stop() { engine_.reset(); }

  // `count` inputs of `tokens` tokens, each of which begins with `mark`.
  static EmbeddingRequest request(std::uint64_t id, std::size_t count, std::size_t tokens,
                                  TokenId mark, const char* tenant = "alice") {
    EmbeddingRequest request;
    request.id = RequestId{id};
    request.tenant = TenantId{tenant};
    for (std::size_t i = 0; i < count; ++i) {
      request.inputs.push_back(make_prompt(tokens, id * 100 + i));
      request.inputs.back()[0] = mark;
    }
    return request;
  }
  std::future<Result<EmbeddingOutcome>> submit(EmbeddingRequest request) {
    auto promise = std::make_shared<std::promise<Result<EmbeddingOutcome>>>();
    const auto accepted = engine_->submit(
        std::move(request), [promise](Result<EmbeddingOutcome> r) { promise->set_value(r); });
    EXPECT_TRUE(accepted) << to_string(accepted.error());
    return promise->get_future();
  }
  static Error error_of(std::future<Result<EmbeddingOutcome>>& future) {
    const auto result = future.get();
    EXPECT_FALSE(result);
    return result ? Error() : result.error();
  }
  std::vector<std::vector<TokenId>> batches() {
    const std::lock_guard lock(mutex_);
    return batches_;
  }

  Ledger ledger_;
  Gate gate_;
  std::atomic<bool> broken_{false};
  std::mutex mutex_;
  std::vector<std::vector<TokenId>> batches_;  // of each step, the inputs' first tokens
  std::unique_ptr<EmbeddingEngine> engine_;
};

TEST_F(EmbeddingEngineTest, GivesAVectorForEachInputInOrder) {
  start();
  gate_.open();
  const auto asked = request(1, 11, 9, 3);  // three steps
  auto future = submit(asked);
  const auto result = future.get();
  ASSERT_TRUE(result);
  ASSERT_EQ(result->vectors.size(), 11U);
  for (std::size_t i = 0; i < 11; ++i) {
    EXPECT_EQ(result->vectors[i], FakeEmbeddingModel::vector_of(asked.inputs[i], 8));
  }
}

TEST_F(EmbeddingEngineTest, TenantsTakeTurnsAndShareAStep) {
  start();
  auto first = submit(request(1, 1, 5, 1));
  gate_.wait_for_visitor();  // the rest comes while the first step runs
  auto flood = submit(request(2, 6, 5, 2));
  auto more = submit(request(3, 1, 5, 3));
  auto bobs = submit(request(4, 2, 5, 4, "bob"));
  gate_.open();
  for (auto* future : {&first, &flood, &more, &bobs}) EXPECT_TRUE(future->get());
  EXPECT_EQ(batches(), (std::vector<std::vector<TokenId>>{{1}, {2, 4, 2, 4}, {2, 2, 2, 2}, {3}}));
}

TEST_F(EmbeddingEngineTest, KeepsToTheTokensOfAStep) {
  start();
  gate_.open();
  EXPECT_TRUE(submit(request(1, 5, 30, 1)).get());  // 64 hold two
  EXPECT_EQ(batches().size(), 3U);
}

TEST_F(EmbeddingEngineTest, RefusesWhatIsMalformed) {
  start();
  const auto refused = [&](EmbeddingRequest request) {
    const auto result = engine_->submit(std::move(request), [](auto) { ADD_FAILURE(); });
    EXPECT_FALSE(result);
    EXPECT_EQ(result.error().param, "input");
    return !result && result.error().code == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused(request(1, 0, 5, 1)));
  EXPECT_TRUE(refused(request(1, 2049, 1, 1)));
  EXPECT_TRUE(refused(request(1, 1, 41, 1)));
  EXPECT_TRUE(refused(request(1, 1, 5, 50)));
  EXPECT_TRUE(refused(request(1, 1, 5, -1)));
  auto empty = request(1, 2, 5, 1);
  empty.inputs[1].clear();
  EXPECT_TRUE(refused(std::move(empty)));
  EXPECT_EQ(engine_->stats().refused_total, 6U);
  EXPECT_TRUE(engine_->idle());
}

TEST_F(EmbeddingEngineTest, BoundsTheQueueAndEachTenant) {
  auto config = small();
  config.queue_length = 3;
  config.tenant_requests = 2;
  start(config);
  auto a = submit(request(1, 1, 5, 1));
  auto b = submit(request(2, 1, 5, 1));
  const auto refusal = [&](std::uint64_t id, const char* tenant) {
    const auto result = engine_->submit(request(id, 1, 5, 1, tenant), [](auto) { ADD_FAILURE(); });
    EXPECT_FALSE(result);
    return result ? std::string() : result.error().reason;
  };
  EXPECT_EQ(refusal(3, "alice"), "tenant_requests");
  auto c = submit(request(4, 1, 5, 1, "bob"));
  EXPECT_EQ(refusal(5, "carol"), "queue_full");
  gate_.open();
  for (auto* future : {&a, &b, &c}) EXPECT_TRUE(future->get());
}

TEST_F(EmbeddingEngineTest, CancelsWhatWaitsAndWhatIsPartlyDone) {
  start();
  auto partly = submit(request(1, 9, 5, 1));
  gate_.wait_for_visitor();
  auto waiting = submit(request(2, 1, 5, 2));
  engine_->cancel(RequestId{1});
  engine_->cancel(RequestId{2});
  gate_.permit();
  EXPECT_EQ(error_of(partly).code, ErrorCode::cancelled);
  EXPECT_EQ(error_of(waiting).code, ErrorCode::cancelled);
  EXPECT_EQ(batches().size(), 1U);
}

TEST_F(EmbeddingEngineTest, EndsWhatIsOverdue) {
  auto config = small();
  config.queue_time = 20ms;
  start(config);
  auto running = request(1, 9, 5, 1);
  running.deadline = std::chrono::steady_clock::now() + 30ms;
  auto first = submit(std::move(running));
  gate_.wait_for_visitor();
  auto second = submit(request(2, 1, 5, 2));
  std::this_thread::sleep_for(40ms);
  gate_.open();
  EXPECT_EQ(error_of(first).code, ErrorCode::deadline_exceeded);
  EXPECT_EQ(error_of(second).reason, "queue_time");
}

TEST_F(EmbeddingEngineTest, DrainsAndThenRefuses) {
  start();
  auto future = submit(request(1, 9, 5, 1));
  engine_->drain(std::chrono::steady_clock::now() + 20s);
  const auto refused = engine_->submit(request(2, 1, 5, 1), [](auto) { ADD_FAILURE(); });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
  gate_.open();
  EXPECT_TRUE(future.get());
}

TEST_F(EmbeddingEngineTest, ADrainEndsAtItsDeadline) {
  start();
  auto future = submit(request(1, 9, 5, 1));
  gate_.wait_for_visitor();
  engine_->drain(std::chrono::steady_clock::now());
  gate_.open();
  EXPECT_EQ(error_of(future).code, ErrorCode::unavailable);
}

TEST_F(EmbeddingEngineTest, ItsEndCancelsWhatIsLeft) {
  start();
  auto future = submit(request(1, 9, 5, 1));
  gate_.wait_for_visitor();
  std::thread opener([&] {
    std::this_thread::sleep_for(10ms);
    gate_.permit();
    gate_.permit();
    gate_.permit();
  });
  stop();
  opener.join();
  const auto result = future.get();
  if (!result) {
    EXPECT_EQ(result.error().code, ErrorCode::cancelled);
  }
  for (const LedgerRow& row : ledger_.snapshot()) EXPECT_EQ(row.bytes, 0);
}

TEST_F(EmbeddingEngineTest, AFailedStepEndsItsRequestsOnly) {
  start();
  broken_ = true;
  auto first = submit(request(1, 1, 5, 1));
  gate_.wait_for_visitor();
  auto second = submit(request(2, 1, 5, 2));
  gate_.open();
  const Error error = error_of(first);
  EXPECT_EQ(error.code, ErrorCode::internal);
  EXPECT_NE(error.message.find("bit rot"), std::string::npos);
  EXPECT_TRUE(second.get());
}

TEST_F(EmbeddingEngineTest, RandomUseGivesEveryoneTheirOwnAndLeavesNothing) {
  std::mt19937 random(7);
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  start();
  gate_.open();
  const char* tenants[] = {"alice", "bob", "carol"};
  std::vector<std::pair<EmbeddingRequest, std::future<Result<EmbeddingOutcome>>>> all;
  for (std::uint64_t id = 1; id <= 150; ++id) {
    auto asked = request(id, 1 + below(10), 1 + below(40), static_cast<TokenId>(below(50)),
                         tenants[below(3)]);
    auto future = submit(asked);
    if (below(6) == 0) engine_->cancel(RequestId{1 + random() % id});
    all.emplace_back(std::move(asked), std::move(future));
  }
  std::size_t cancelled = 0;
  for (auto& [asked, future] : all) {
    const auto result = future.get();
    if (!result) {
      EXPECT_EQ(result.error().code, ErrorCode::cancelled);
      ++cancelled;
      continue;
    }
    ASSERT_EQ(result->vectors.size(), asked.inputs.size());
    for (std::size_t i = 0; i < result->vectors.size(); ++i) {
      EXPECT_EQ(result->vectors[i], FakeEmbeddingModel::vector_of(asked.inputs[i], 8));
    }
  }
  EXPECT_LT(cancelled, 40U);
  for (int i = 0; i < 5000 && !engine_->idle(); ++i) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(ledger_.account(Component::requests, "fake@1", TenantId{"alice"}, Endpoint::embeddings)
                .bytes(),
            0);
  stop();
  for (const LedgerRow& row : ledger_.snapshot()) EXPECT_EQ(row.bytes, 0);
}

}  // namespace
}  // namespace plimsoll::testing
