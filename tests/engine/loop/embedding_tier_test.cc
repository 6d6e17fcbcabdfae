// An embedding engine with a place where vectors are kept: what is there is not computed, what is
// not there in time is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <map>
#include <mutex>

#include "engine/loop/embedding_engine.h"
#include "tests/engine/loop/engine_harness.h"
#include "tests/engine/loop/fake_model.h"

namespace plimsoll::testing {
namespace {

using Vectors = std::vector<std::vector<float>>;
using Tokens = std::vector<TokenId>;

// Keeps vectors in memory, and gives them when it is let.
class FakeTier final : public EmbeddingTier {
 public:
  void offer(const TenantId& tenant, std::span<const TokenId> input,
             std::span<const float> vector) override {
    const std::lock_guard lock(mutex_);
    kept_[{tenant, {input.begin(), input.end()}}] = {vector.begin(), vector.end()};
  }
  std::unique_ptr<EmbeddingFetch> look_up(const TenantId& tenant,
                                          std::span<const Tokens> inputs) override;

  void forget(const TenantId& tenant, const Tokens& input) {
    const std::lock_guard lock(mutex_);
    kept_[{tenant, input}].clear();
  }
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void let_go() {
    std::vector<std::function<void()>> waiting;
    {
      const std::lock_guard lock(mutex_);
      held_ = false;
      waiting.swap(waiting_);
    }
    for (const auto& done : waiting) done();
  }
  void wait_for_fetch() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 20s, [&] { return !waiting_.empty(); }));
  }
  std::atomic<double> read_seconds{0};
  std::atomic<int> fetches{0};

 private:
  friend class FakeFetch;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<TenantId, Tokens>, std::vector<float>> kept_;
  bool held_ = false;
  std::vector<std::function<void()>> waiting_;
};

class FakeFetch final : public EmbeddingFetch {
 public:
  FakeFetch(FakeTier& tier, std::vector<std::uint32_t> inputs, Vectors vectors)
      : tier_(tier), inputs_(std::move(inputs)), vectors_(std::move(vectors)) {}
  std::span<const std::uint32_t> inputs() const override { return inputs_; }
  double read_seconds() const override { return tier_.read_seconds; }
  void start(std::function<void()> on_done) override {
    ++tier_.fetches;
    const std::lock_guard lock(tier_.mutex_);
    if (!tier_.held_) {
      *done_ = true;
      return;
    }
    tier_.waiting_.push_back([done = done_, on_done = std::move(on_done)] {
      *done = true;
      on_done();
    });
    tier_.changed_.notify_all();
  }
  bool done() const override { return *done_; }
  Vectors take() override { return *done_ ? std::move(vectors_) : Vectors(); }

 private:
  FakeTier& tier_;
  const std::vector<std::uint32_t> inputs_;
  Vectors vectors_;
  const std::shared_ptr<std::atomic<bool>> done_ = std::make_shared<std::atomic<bool>>(false);
};

std::unique_ptr<EmbeddingFetch> FakeTier::look_up(const TenantId& tenant,
                                                  std::span<const Tokens> inputs) {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint32_t> known;
  Vectors vectors;
  for (std::uint32_t i = 0; i < inputs.size(); ++i) {
    const auto found = kept_.find({tenant, inputs[i]});
    if (found == kept_.end()) continue;
    known.push_back(i);
    vectors.push_back(found->second);
  }
  if (known.empty()) return nullptr;
  return std::make_unique<FakeFetch>(*this, std::move(known), std::move(vectors));
}

class EmbeddingTierTest : public ::testing::Test {
 protected:
  EmbeddingTierTest() {
    EmbeddingEngineConfig config;
    config.model_version = "fake@1";
    config.limits = {.tokens = 64, .sequences = 8, .logit_rows = 1, .context_tokens = 40};
    config.max_batch = 4;
    config.tier = tier_;
    auto model = std::make_unique<FakeEmbeddingModel>(config.limits, 8, [this](auto batch) {
      const std::lock_guard lock(mutex_);
      for (const auto& input : batch) computed_.push_back({input.begin(), input.end()});
    });
    engine_ = std::move(EmbeddingEngine::start(std::move(model), config, ledger_).value());
  }
  ~EmbeddingTierTest() override {
    engine_.reset();
    for (const LedgerRow& row : ledger_.snapshot()) EXPECT_EQ(row.bytes, 0);
  }

  std::future<Result<EmbeddingOutcome>> submit(std::vector<Tokens> inputs,
                                               const char* tenant = "alice",
                                               bool no_store = false) {
    EmbeddingRequest request{
        RequestId{++last_id_}, TenantId{tenant}, std::move(inputs), {}, no_store};
    auto promise = std::make_shared<std::promise<Result<EmbeddingOutcome>>>();
    EXPECT_TRUE(engine_->submit(std::move(request), [promise](Result<EmbeddingOutcome> r) {
      promise->set_value(std::move(r));
    }));
    return promise->get_future();
  }
  // Each input's vector is its own, whoever made it.
  void embed(const std::vector<Tokens>& inputs, const char* tenant = "alice") {
    expect(submit(inputs, tenant), inputs);
  }
  static void expect(std::future<Result<EmbeddingOutcome>> future,
                     const std::vector<Tokens>& inputs) {
    const auto result = future.get();
    ASSERT_TRUE(result) << to_string(result.error());
    ASSERT_EQ(result->vectors.size(), inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      EXPECT_EQ(result->vectors[i], FakeEmbeddingModel::vector_of(inputs[i], 8));
    }
  }
  std::vector<Tokens> computed() {
    const std::lock_guard lock(mutex_);
    return std::exchange(computed_, {});
  }

  const Tokens a_{1, 2, 3}, b_{4, 5}, c_{6}, d_{7, 8, 9, 10};
  const TenantId alice_{"alice"};
  Ledger ledger_;
  const std::shared_ptr<FakeTier> tier_ = std::make_shared<FakeTier>();
  std::uint64_t last_id_ = 0;
  std::mutex mutex_;
  std::vector<Tokens> computed_;
  std::unique_ptr<EmbeddingEngine> engine_;
};

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(EmbeddingTierTest, WhatShallNotBeStoredIsNot) {
  const std::vector<Tokens> inputs{{1, 2, 3}};
  for (int i = 0; i < 2; ++i) {
    expect(submit(inputs, "alice", true), inputs);
    EXPECT_EQ(computed(), inputs);
  }
  embed(inputs);
  EXPECT_EQ(computed(), inputs);
  expect(submit(inputs, "alice", true), inputs);
  EXPECT_TRUE(computed().empty()) << "what is there may be used";
}

TEST_F(EmbeddingTierTest, OnlyWhatIsMissingIsComputed) {
  embed({b_, d_});
  EXPECT_THAT(computed(), ElementsAre(b_, d_));
  embed({a_, b_, c_, d_, a_});
  EXPECT_THAT(computed(), ElementsAre(a_, c_, a_));
  EXPECT_EQ(submit({a_, b_, c_, d_}).get()->cached_tokens, 10U);
  EXPECT_THAT(computed(), IsEmpty());
  EXPECT_EQ(submit({{11}, c_}).get()->cached_tokens, 1U) << "not what is computed";
  // The counters follow the answer.
  for (int i = 0; i < 5000 && engine_->stats().finished_total < 4; ++i) {
    std::this_thread::sleep_for(1ms);
  }
  const auto stats = engine_->stats();
  EXPECT_EQ(stats.inputs_total, 6U);
  EXPECT_EQ(stats.tokens_total, 14U);
  EXPECT_EQ(stats.cached_inputs_total, 7U);
  EXPECT_EQ(stats.cached_tokens_total, 17U);
  EXPECT_EQ(stats.finished_total, 4U);
}

TEST_F(EmbeddingTierTest, ATenantHasItsOwn) {
  embed({a_});
  embed({a_}, "bob");
  EXPECT_THAT(computed(), ElementsAre(a_, a_));
}

TEST_F(EmbeddingTierTest, WhatIsLostIsComputed) {
  embed({a_, b_});
  tier_->forget(alice_, a_);
  computed();
  embed({a_, b_});
  EXPECT_THAT(computed(), ElementsAre(a_));
}

TEST_F(EmbeddingTierTest, WhatDoesNotComeInTimeIsComputed) {
  embed({a_});
  computed();
  tier_->hold();
  embed({a_, b_});
  EXPECT_THAT(computed(), ElementsAre(a_, b_));
}

TEST_F(EmbeddingTierTest, WhatIsSlowerToReadIsNotAskedFor) {
  embed({a_});
  tier_->read_seconds = 1e6;
  embed({a_});
  EXPECT_EQ(tier_->fetches, 0);
  EXPECT_THAT(computed(), ElementsAre(a_, a_));
}

TEST_F(EmbeddingTierTest, NobodyElseWaitsAndACancelledOneEnds) {
  tier_->offer(alice_, a_, FakeEmbeddingModel::vector_of(a_, 8));  // no speed is known: 2 s to wait
  tier_->hold();
  auto waits = submit({a_});
  tier_->wait_for_fetch();
  embed({b_}, "bob");
  embed({c_, c_, c_, c_, c_});
  auto also = submit({a_, b_});
  engine_->cancel(RequestId{last_id_});
  EXPECT_EQ(also.get().error().code, ErrorCode::cancelled);
  tier_->let_go();
  expect(std::move(waits), {a_});
  EXPECT_THAT(computed(), ElementsAre(b_, c_, c_, c_, c_, c_));
}

}  // namespace
}  // namespace plimsoll::testing
