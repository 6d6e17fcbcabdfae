// The cache on disk behind an embedding engine: what one of before computed, one of after a restart
// reads.
#include "storage/embedding_tier.h"

#include <gmock/gmock.h>

#include <future>

#include "engine/loop/embedding_engine.h"
#include "tests/engine/loop/fake_model.h"
#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

using plimsoll::testing::FakeEmbeddingModel;
using Inputs = std::vector<std::vector<TokenId>>;

constexpr std::uint32_t hidden = 24;

class DiskEmbeddingTierTest : public DiskCacheTest {
 protected:
  DiskEmbeddingTierTest() {
    options_.flush_after = 1h;
    options_.now = std::chrono::system_clock::now;
  }
  ~DiskEmbeddingTierTest() override { stop(); }

  void stop() {
    engine_.reset();
    shared_.reset();
  }
  // With nothing in memory of what was before.
  void start(const std::string& model = "fake@1", const std::string& variant = "0") {
    stop();
    finished_ = 0;
    auto cache = open_disk_cache(options_, ledger_);
    if (!cache) throw std::runtime_error(to_string(cache.error()));
    shared_ = std::move(*cache);
    EmbeddingEngineConfig config;
    config.model_version = model;
    config.limits = {.tokens = 64, .sequences = 8, .logit_rows = 1, .context_tokens = 40};
    config.tier = make_embedding_tier(shared_, {model, variant, hidden}, budget_, ledger_);
    // So that reading is worth it, on a busy machine too.
    auto fake = std::make_unique<FakeEmbeddingModel>(
        config.limits, hidden, [](auto) { std::this_thread::sleep_for(20ms); });
    engine_ = std::move(EmbeddingEngine::start(std::move(fake), config, ledger_).value());
  }
  // How many of the inputs were not computed.
  std::uint64_t cached_of(const Inputs& inputs, const char* tenant = "alice") {
    const auto before = engine_->stats().cached_inputs_total;
    std::promise<Result<EmbeddingOutcome>> promise;
    EmbeddingRequest request{RequestId{++last_id_}, TenantId{tenant}, inputs, {}};
    EXPECT_TRUE(engine_->submit(
        std::move(request), [&](Result<EmbeddingOutcome> r) { promise.set_value(std::move(r)); }));
    const auto result = promise.get_future().get();
    EXPECT_TRUE(result);
    for (std::size_t i = 0; result && i < inputs.size(); ++i) {
      EXPECT_EQ(result->vectors[i], FakeEmbeddingModel::vector_of(inputs[i], hidden));
    }
    std::uint64_t cached = 0;
    // The counters follow the answer.
    EXPECT_TRUE(eventually([&] {
      const auto stats = engine_->stats();
      cached = stats.cached_inputs_total - before;
      return stats.finished_total == finished_ + 1;
    }));
    finished_ = engine_->stats().finished_total;
    return cached;
  }

  const std::shared_ptr<TierBudget> budget_ = std::make_shared<TierBudget>(64_KiB, 1_KiB);
  std::shared_ptr<DiskCache> shared_;
  std::unique_ptr<EmbeddingEngine> engine_;
  std::uint64_t last_id_ = 0, finished_ = 0;
};

TEST_F(DiskEmbeddingTierTest, ARestartFindsWhatWasComputed) {
  const Inputs inputs{{1, 2, 3}, {4}, {5, 6}};
  start();
  EXPECT_EQ(cached_of(inputs), 0U);
  EXPECT_EQ(cached_of(inputs), 3U) << "from the buffer";
  start();
  EXPECT_EQ(cached_of({{4}, {9}, {1, 2, 3}}), 2U) << "from the disk";
  EXPECT_EQ(cached_of({{1, 2}, {2, 3}}), 0U) << "other texts";
  EXPECT_EQ(cached_of(inputs, "bob"), 0U) << "another tenant";
  start("fake@2");
  EXPECT_EQ(cached_of(inputs), 0U) << "another model";
  start("fake@1", "1");
  EXPECT_EQ(cached_of(inputs), 0U) << "computed otherwise";
  const auto stats = shared_->stats();
  const auto& alice = stats.tenants.at(TenantId("alice"))[static_cast<int>(CacheKind::embedding)];
  EXPECT_GT(alice.entries, 0U);
  stop();
  EXPECT_EQ(budget_->fetched, 0U);
  for (const LedgerRow& row : ledger_.snapshot()) EXPECT_EQ(row.bytes, 0);
  EXPECT_THAT(troubles(), ::testing::IsEmpty());
}

TEST_F(DiskEmbeddingTierTest, NoMoreIsReadAtATimeThanTheBudgetHasRoomFor) {
  Inputs inputs;
  for (TokenId i = 0; i < 12; ++i) inputs.push_back({i});
  start();
  EXPECT_EQ(cached_of(inputs), 0U);
  EXPECT_EQ(cached_of(inputs), 5U) << "of 192 bytes each";
}

TEST_F(DiskEmbeddingTierTest, DamageOnDiskIsComputedAnew) {
  const Inputs inputs{{1, 2, 3}};
  start();
  EXPECT_EQ(cached_of(inputs), 0U);
  stop();
  for (const auto& file : segment_files()) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out << std::string(std::filesystem::file_size(file) / 2, 'x');
  }
  start();
  EXPECT_EQ(cached_of(inputs), 0U);
  EXPECT_THAT(troubles(), ::testing::Not(::testing::IsEmpty()));
}

}  // namespace
}  // namespace plimsoll::storage
