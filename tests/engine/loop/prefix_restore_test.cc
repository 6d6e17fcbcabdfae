// The engine with a tier below its prefix tree. The fake model's tokens hang on every block: one
// that came back wrong, or in the wrong place, changes them.
#include "engine/loop/prefix_restore.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>

#include "tests/engine/loop/engine_harness.h"

namespace plimsoll::testing {
namespace {

// Remembers all that is offered. Gives it back at once, late, in part or never.
class MemoryTier final : public KvTier {
 public:
  enum class Mood { prompt, late, half, never };
  ~MemoryTier() override {
    for (auto& thread : threads_) thread.join();
  }

  bool offer(const KvPrefix& prefix, Parts block) override {
    const std::lock_guard lock(mutex_);
    if (refuses > 0) {
      --refuses;
      return false;
    }
    ++offers;
    std::string& bytes = blocks_[key(prefix.salt, prefix.tokens)];
    bytes.clear();
    for (const auto& part : block) {
      bytes.append(reinterpret_cast<const char*>(part.data()), part.size());
    }
    return true;
  }

  void forget(const std::optional<TenantId>& tenant) override {
    const std::lock_guard lock(mutex_);
    forgotten_.push_back(tenant ? tenant->get() : "(all)");
    blocks_.clear();
  }

  std::unique_ptr<KvFetch> look_up(const KvPrefix& prefix, std::uint32_t first) override {
    const std::lock_guard lock(mutex_);
    ++lookups;
    std::vector<std::string> found;
    for (std::size_t end = (first + 1) * 16; end <= prefix.tokens.size(); end += 16) {
      const auto at = blocks_.find(key(prefix.salt, prefix.tokens.first(end)));
      if (at == blocks_.end()) break;
      found.push_back(at->second);
    }
    if (found.empty()) return nullptr;
    return std::make_unique<Fetch>(*this, std::move(found));
  }

  std::size_t bytes() {
    const std::lock_guard lock(mutex_);
    std::size_t sum = 0;
    for (const auto& [key, block] : blocks_) sum += block.size();
    return sum;
  }
  std::vector<std::string> forgotten() {
    const std::lock_guard lock(mutex_);
    return forgotten_;
  }
  void forget_all() {
    const std::lock_guard lock(mutex_);
    blocks_.clear();
  }

  std::atomic<Mood> mood{Mood::prompt};
  std::atomic<double> seconds{0};
  std::atomic<int> offers{0}, lookups{0}, fetches{0}, refuses{0};

 private:
  struct Shared {
    std::mutex mutex;
    std::vector<std::string> come;
    std::function<void()> on_done;
    bool done = false;
  };
  class Fetch final : public KvFetch {
   public:
    Fetch(MemoryTier& tier, std::vector<std::string> found)
        : tier_(tier), found_(std::move(found)) {}
    ~Fetch() override {
      const std::lock_guard lock(shared_->mutex);
      shared_->on_done = {};
    }
    std::uint32_t blocks() const override { return static_cast<std::uint32_t>(found_.size()); }
    double read_seconds() const override { return tier_.seconds; }
    void start(std::function<void()> on_done) override {
      ++tier_.fetches;
      const Mood mood = tier_.mood;
      if (mood == Mood::never) return;
      if (mood == Mood::half) found_.resize(found_.size() / 2);
      shared_->on_done = std::move(on_done);
      tier_.threads_.emplace_back([shared = shared_, found = found_, mood] {
        if (mood == Mood::late) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        const std::lock_guard lock(shared->mutex);
        shared->come = found;
        shared->done = true;
        if (shared->on_done) shared->on_done();
      });
    }
    bool done() const override {
      const std::lock_guard lock(shared_->mutex);
      return shared_->done;
    }
    std::vector<std::string> take() override {
      const std::lock_guard lock(shared_->mutex);
      return std::move(shared_->come);
    }

   private:
    MemoryTier& tier_;
    std::vector<std::string> found_;
    std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  };

  static std::string key(std::string_view salt, std::span<const TokenId> tokens) {
    return std::string(salt) + "/" +
           std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  }

  std::mutex mutex_;
  std::map<std::string, std::string> blocks_;
  std::vector<std::string> forgotten_;
  std::vector<std::thread> threads_;  // started on the engine's thread
};

class PrefixRestoreTest : public ::testing::Test {
 protected:
  PrefixRestoreTest() {
    config_.limits = {.tokens = 64, .sequences = 8, .logit_rows = 8, .context_tokens = 512};
    config_.chunk_tokens = 32;
    config_.tier = tier_;
  }
  void start(std::uint32_t blocks = 64) {
    harness_.reset();
    harness_ = std::make_unique<EngineHarness>(config_, blocks, model_);
  }
  // Generates, and holds it against the definition.
  SequenceUsage run(const SequenceRequest& request) {
    EXPECT_TRUE(harness_->engine().submit(request));
    const Outcome outcome = harness_->outcome(request.id.get());
    EXPECT_EQ(outcome.finish, FinishReason::length);
    EXPECT_EQ(outcome.tokens, FakeModel::generate(request.prompt, request.sampling,
                                                  request.max_new_tokens, 50, {}));
    return outcome.usage;
  }
  // Request 2 has a prompt that the tier knows, and its blocks are on their way, slowly.
  void wait_for_late_blocks(const std::vector<TokenId>& prompt) {
    start();
    run(make_request(1, prompt, 10));
    start();
    tier_->mood = MemoryTier::Mood::late;
    ASSERT_TRUE(harness_->engine().submit(make_request(2, prompt, 10)));
    while (tier_->fetches == 0) std::this_thread::yield();
  }

  const std::shared_ptr<MemoryTier> tier_ = std::make_shared<MemoryTier>();
  EngineConfig config_;
  FakeModelOptions model_;
  std::unique_ptr<EngineHarness> harness_;
};

TEST_F(PrefixRestoreTest, AfterARestartAPrefixComesBackWithTheSameTokens) {
  const auto prompt = make_prompt(200, 1);
  start();
  EXPECT_EQ(run(make_request(1, prompt, 10)).cached_tokens, 0U);
  EXPECT_EQ(tier_->offers, 0) << "nothing has left the tree";
  start();
  EXPECT_EQ(tier_->offers, 13) << "at the end all of it was offered";
  EXPECT_EQ(run(make_request(2, prompt, 10)).cached_tokens, 192U);
  EXPECT_EQ(harness_->engine().stats().restored_tokens_total, 192U);
  auto longer = prompt;
  for (const TokenId token : make_prompt(100, 2)) longer.push_back(token);
  EXPECT_EQ(run(make_request(3, longer, 10)).cached_tokens, 192U) << "now from the tree";
  EXPECT_EQ(tier_->fetches, 1);
  start();
  EXPECT_EQ(run(make_request(4, longer, 10)).cached_tokens, 288U) << "a longer chain";
}

TEST_F(PrefixRestoreTest, WhatIsEvictedComesBack) {
  start(40);  // blocks: of the two prompts, one fits into the tree
  for (std::uint64_t round = 0; round < 6; ++round) {
    const auto usage = run(make_request(round + 1, make_prompt(400, round % 2), 10));
    EXPECT_EQ(usage.cached_tokens > 300, round >= 2) << round;
  }
  EXPECT_GT(harness_->engine().stats().restored_tokens_total, 600U);
  EXPECT_LT(tier_->offers, 80) << "what came from the tier is not offered again";
}

TEST_F(PrefixRestoreTest, OthersRunWhileOneWaitsAndALateAnswerIsNotWaitedForLongerThanComputing) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10));
  start();
  tier_->mood = MemoryTier::Mood::never;
  ASSERT_TRUE(harness_->engine().submit(make_request(2, prompt, 10)));
  run(make_request(3, make_prompt(50, 3), 10));
  const Outcome outcome = harness_->outcome(2);
  EXPECT_EQ(outcome.usage.cached_tokens, 0U);
  EXPECT_EQ(outcome.tokens,
            FakeModel::generate(prompt, make_request(2, prompt, 10).sampling, 10, 50, {}));
  tier_->mood = MemoryTier::Mood::late;
  start();
  EXPECT_EQ(run(make_request(4, prompt, 10)).cached_tokens, 192U);
}

TEST_F(PrefixRestoreTest, WhatIsLostInBetweenIsComputed) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10));
  start();
  tier_->mood = MemoryTier::Mood::half;
  // What did not come is asked for again, as long as anything comes.
  const auto usage = run(make_request(2, prompt, 10));
  EXPECT_GT(usage.cached_tokens, 96U);
  EXPECT_LT(usage.cached_tokens, 192U);
  EXPECT_GT(tier_->fetches, 2);
  EXPECT_LT(tier_->fetches, 6);
}

TEST_F(PrefixRestoreTest, NothingIsReadWhereComputingIsFaster) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10));
  start();
  run(make_request(2, make_prompt(100, 9), 10));  // now the cost of steps is known
  tier_->seconds = 1000;
  EXPECT_EQ(run(make_request(3, prompt, 10)).cached_tokens, 0U);
  EXPECT_EQ(tier_->fetches, 0);
}

TEST_F(PrefixRestoreTest, ATenantSeesOnlyItsOwnAndNothingPrivateIsOffered) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10, "alice"));
  auto secret = make_request(2, make_prompt(200, 2), 10, "alice");
  secret.no_store = true;
  run(secret);
  start();
  EXPECT_EQ(tier_->offers, 13);
  EXPECT_EQ(run(make_request(3, prompt, 10, "bob")).cached_tokens, 0U);
  EXPECT_EQ(run(make_request(4, secret.prompt, 10, "alice")).cached_tokens, 0U);
  EXPECT_EQ(run(make_request(5, prompt, 10, "alice")).cached_tokens, 192U);
}

TEST_F(PrefixRestoreTest, WhatIsForgottenIsInMemoryNoMoreAndNeverOffered) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10, "alice"));
  run(make_request(2, prompt, 10, "bob"));
  harness_->engine().forget(TenantId("alice")).get();
  EXPECT_THAT(tier_->forgotten(), ::testing::ElementsAre("alice"));
  EXPECT_EQ(run(make_request(3, prompt, 10, "alice")).cached_tokens, 0U);
  EXPECT_EQ(run(make_request(4, prompt, 10, "bob")).cached_tokens, 192U) << "another's stays";
  harness_->engine().forget({}).get();
  EXPECT_EQ(run(make_request(5, prompt, 10, "bob")).cached_tokens, 0U);
  harness_->engine().forget({}).get();
  start();
  EXPECT_EQ(tier_->offers, 0);
}

TEST_F(PrefixRestoreTest, WhatRunsOrWaitsWhileItIsForgottenIsNotOfferedAfterwards) {
  start();
  auto running = make_request(1, make_prompt(200, 1), 60, "alice");
  running.credit = 20;  // then it waits for more
  ASSERT_TRUE(harness_->engine().submit(running));
  while (harness_->engine().stats().paused == 0) std::this_thread::yield();
  harness_->engine().forget(TenantId("alice")).get();
  harness_->engine().add_credit(RequestId{1}, 40);
  EXPECT_EQ(harness_->outcome(1).tokens.size(), 60U);
  start();
  EXPECT_EQ(tier_->offers, 0);
  run(make_request(2, make_prompt(200, 1), 10, "alice"));
  start();
  EXPECT_EQ(tier_->offers, 13) << "what is asked for later is kept again";
}

TEST_F(PrefixRestoreTest, WhatIsOnItsWayFromTheTierIsForgottenToo) {
  const auto prompt = make_prompt(200, 1);
  wait_for_late_blocks(prompt);
  harness_->engine().forget({}).get();
  EXPECT_EQ(harness_->outcome(2).usage.cached_tokens, 0U);
}

TEST_F(PrefixRestoreTest, AFullTierIsWaitedForAtTheEndOnly) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10));
  tier_->refuses = 20;
  start();
  EXPECT_EQ(tier_->offers, 13);
}

TEST_F(PrefixRestoreTest, UnderPressureNothingIsBroughtBack) {
  const auto prompt = make_prompt(200, 1);
  start();
  run(make_request(1, prompt, 10));
  start();
  harness_->engine().set_pressure({PressureLevel::orange});
  EXPECT_EQ(run(make_request(2, prompt, 10)).cached_tokens, 0U);
  EXPECT_EQ(tier_->lookups, 1) << "that of the first sequence";
}

TEST_F(PrefixRestoreTest, ACancelledSequenceWaitsForNothing) {
  const auto prompt = make_prompt(200, 1);
  wait_for_late_blocks(prompt);
  harness_->engine().cancel(RequestId{2});
  EXPECT_EQ(harness_->outcome(2).finish, FinishReason::cancelled);
  harness_.reset();
}

TEST_F(PrefixRestoreTest, OfPassedRowsWindowedBlocksNeitherGoNorCome) {
  model_.window = 40;
  const auto prompt = make_prompt(200, 1);
  start(100);
  EXPECT_EQ(run(make_request(1, prompt, 10)).cached_tokens, 0U);
  start(100);
  EXPECT_EQ(tier_->offers, 13);
  // A block is 1 KiB; the last four rows are there with all of their three, and those before the
  // prompt's end.
  EXPECT_GE(tier_->bytes(), (13U + 4 * 2) * 1024);
  EXPECT_LE(tier_->bytes(), (13U + 5 * 2) * 1024);
  auto longer = prompt;
  for (const TokenId token : make_request(1, prompt, 10).prompt) longer.push_back(token);
  longer.resize(208);
  const auto known = FakeModel::generate(prompt, make_request(1, prompt, 10).sampling, 8, 50, {});
  std::ranges::copy(known, longer.begin() + 200);
  longer.push_back(1);
  EXPECT_EQ(run(make_request(2, longer, 10)).cached_tokens, 208U);
  EXPECT_EQ(run(make_request(3, make_prompt(150, 1), 10)).cached_tokens, 0U)
      << "no window ends there";
}

TEST_F(PrefixRestoreTest, RandomLoadsGiveTheTokensOfTheDefinition) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    model_.window = seed > 4 ? 25 : 0;
    start(seed > 4 ? 100 : 48);
    std::mt19937_64 random(seed);
    std::vector<SequenceRequest> requests;
    for (std::uint64_t i = 0; i < 60; ++i) {
      tier_->mood = static_cast<MemoryTier::Mood>(random() % 3);
      auto prompt = make_prompt(50 + random() % 250, random() % 5);
      if (random() % 2 == 0) prompt.resize(prompt.size() / 2);
      auto request = make_request(i + 1, std::move(prompt), 1 + random() % 20,
                                  random() % 2 == 0 ? "alice" : "bob");
      request.no_store = random() % 8 == 0;
      ASSERT_TRUE(harness_->engine().submit(request));
      requests.push_back(std::move(request));
      if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
    for (const auto& request : requests) {
      const Outcome outcome = harness_->outcome(request.id.get());
      EXPECT_EQ(outcome.tokens, FakeModel::generate(request.prompt, request.sampling,
                                                    request.max_new_tokens, 50, {}));
    }
  }
  EXPECT_GT(tier_->fetches, 0);
}

}  // namespace
}  // namespace plimsoll::testing
