// The cache on disk below an engine: what an engine of before computed, one of after a restart
// reads.
#include "storage/prefix_tier.h"

#include <gmock/gmock.h>

#include "tests/engine/loop/engine_harness.h"
#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

using plimsoll::testing::EngineHarness;
using plimsoll::testing::FakeModel;
using plimsoll::testing::make_prompt;
using plimsoll::testing::make_request;

class PrefixTierTest : public DiskCacheTest {
 protected:
  PrefixTierTest() {
    config_.limits = {.tokens = 64, .sequences = 8, .logit_rows = 8, .context_tokens = 512};
    config_.chunk_tokens = 32;
    options_.flush_after = 1h;
    options_.now = std::chrono::system_clock::now;
  }
  ~PrefixTierTest() override { stop(); }

  void stop() {
    engine_.reset();
    config_.tier.reset();
    shared_.reset();
  }
  void start(KvType type = KvType::f16) {
    stop();
    auto cache = open_disk_cache(options_, ledger_);
    if (!cache) throw std::runtime_error(to_string(cache.error()));
    shared_ = std::move(*cache);
    config_.kv_type = type;
    block_bytes_ =
        KvLayout{.layers = 1, .kv_heads = 1, .head_dim = 16, .block_tokens = 16, .type = type}
            .block_bytes();
    config_.tier = make_prefix_tier(
        shared_, {"fake@1", std::string(to_string(type)), 16, block_bytes_}, budget_, ledger_);
    engine_ = std::make_unique<EngineHarness>(config_, 64);
  }
  std::uint32_t cached_of(const SequenceRequest& request) {
    EXPECT_TRUE(engine_->engine().submit(request));
    const auto outcome = engine_->outcome(request.id.get());
    EXPECT_EQ(outcome.tokens,
              FakeModel::generate(request.prompt, request.sampling, request.max_new_tokens, 50));
    return outcome.usage.cached_tokens;
  }

  std::uint64_t block_bytes_ = 0;  // once it has started
  EngineConfig config_;
  const std::shared_ptr<TierBudget> budget_ = std::make_shared<TierBudget>(64_KiB, 8_KiB);
  std::shared_ptr<DiskCache> shared_;
  std::unique_ptr<EngineHarness> engine_;
};

TEST_F(PrefixTierTest, ARestartFindsWhatWasComputed) {
  const auto prompt = make_prompt(300, 1);
  start();
  EXPECT_EQ(cached_of(make_request(1, prompt, 10)), 0U);
  start();
  EXPECT_EQ(cached_of(make_request(2, prompt, 10)), 288U);
  EXPECT_EQ(cached_of(make_request(3, make_prompt(300, 2), 10)), 0U);
  EXPECT_EQ(cached_of(make_request(4, prompt, 10, "bob")), 0U) << "another tenant";
  const auto stats = shared_->stats();
  const auto& alice = stats.tenants.at(TenantId("alice"))[0];
  EXPECT_EQ(alice.hits_total, 18U);
  EXPECT_GT(alice.misses_total, 0U);
  stop();
  EXPECT_EQ(budget_->offered + budget_->fetched, 0U);
  EXPECT_EQ(ledger_.account(Component::prefix_cache, "fake@1", TenantId("alice")).bytes(), 0);
  EXPECT_THAT(troubles(), ::testing::IsEmpty());
}

// Texts that share a beginning, whose blocks leave in any order.
TEST_F(PrefixTierTest, ABlockIsFoundBehindItsOwnTextOnly) {
  start();
  auto first = make_prompt(64, 1), second = first;
  second[40] += 1;  // in the third block
  const std::string block(block_bytes_, 'x');
  const TenantId alice("alice");
  const auto offer = [&](const std::vector<TokenId>& text, std::size_t tokens) {
    const KvPrefix prefix("salt", alice, std::span(text).first(tokens));
    const std::span<const std::byte> parts[] = {std::as_bytes(std::span(block))};
    EXPECT_TRUE(eventually([&] { return config_.tier->offer(prefix, parts); }));
  };
  const auto known = [&](const std::vector<TokenId>& text) {
    const auto fetch = config_.tier->look_up(KvPrefix("salt", alice, text), 0);
    return fetch == nullptr ? 0U : fetch->blocks();
  };
  for (const auto tokens : {64, 48, 32}) offer(first, tokens);
  offer(second, 64);
  offer(first, 16);
  EXPECT_TRUE(eventually([&] { return known(first) == 4; }));
  EXPECT_EQ(known(second), 2U);
  offer(second, 48);
  EXPECT_TRUE(eventually([&] { return known(second) == 4; }));
}

// Not even by their size: of f16 and bf16 it is the same, of int8 and int4 with heads this small.
TEST_F(PrefixTierTest, BlocksOfAnotherTypeAreNotRead) {
  const auto prompt = make_prompt(300, 1);
  constexpr KvType types[] = {KvType::f16, KvType::bf16, KvType::int8, KvType::int4};
  std::uint64_t id = 1;
  for (const KvType type : types) {
    start(type);
    EXPECT_EQ(cached_of(make_request(id++, prompt, 10)), 0U) << to_string(type);
  }
  for (const KvType type : types) {
    start(type);
    EXPECT_EQ(cached_of(make_request(id++, prompt, 10)), 288U) << to_string(type);
  }
  EXPECT_THAT(troubles(), ::testing::IsEmpty());
}

TEST_F(PrefixTierTest, DamageOnDiskIsComputedAnew) {
  const auto prompt = make_prompt(300, 1);
  start();
  cached_of(make_request(1, prompt, 10));
  stop();
  for (const auto& file : segment_files()) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(std::filesystem::file_size(file) / 2));
    out << "broken";
  }
  start();
  EXPECT_LT(cached_of(make_request(2, prompt, 10)), 288U);
  EXPECT_THAT(troubles(), ::testing::Not(::testing::IsEmpty()));
}

TEST_F(PrefixTierTest, WhatIsForgottenOnItsWayNeverArrives) {
  const auto prompt = make_prompt(300, 1);
  options_.buffer_bytes = 0;  // offers wait, and are tried again and again
  start();
  const std::vector<std::byte> block(
      KvLayout{.layers = 1, .kv_heads = 1, .head_dim = 16}.block_bytes());
  const TenantId alice("alice"), bob("bob");
  for (std::size_t end = 16; end <= 64; end += 16) {
    for (const auto& tenant : {alice, bob}) {
      const KvPrefix prefix(tenant.get(), tenant, std::span(prompt).first(end));
      const std::span<const std::byte> parts[] = {block};
      EXPECT_TRUE(config_.tier->offer(prefix, parts));
    }
  }
  config_.tier->forget(alice);
  EXPECT_EQ(ledger_.account(Component::prefix_cache, "fake@1", alice).bytes(), 0);
  EXPECT_GT(ledger_.account(Component::prefix_cache, "fake@1", bob).bytes(), 0);
  config_.tier->forget({});
  EXPECT_EQ(ledger_.account(Component::prefix_cache, "fake@1", bob).bytes(), 0);
  EXPECT_EQ(budget_->offered, 0U);
}

TEST_F(PrefixTierTest, WhatIsPurgedIsComputedAnew) {
  const auto prompt = make_prompt(300, 1);
  start();
  cached_of(make_request(1, prompt, 10));
  start();
  EXPECT_TRUE(shared_->purge({TenantId("alice"), {}, 0ms}, test_deadline));
  EXPECT_EQ(cached_of(make_request(2, prompt, 10)), 0U);
}

}  // namespace
}  // namespace plimsoll::storage
