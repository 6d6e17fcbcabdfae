// The tokens of long texts on the disk: what comes back is what went, or nothing.
#include "storage/token_tier.h"

#include <gmock/gmock.h>

#include <future>

#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

using Tokens = std::vector<TokenId>;

class TokenTierTest : public DiskCacheTest {
 protected:
  ~TokenTierTest() override { stop(); }
  void stop() {
    tier_.reset();
    shared_.reset();
  }
  void start() {
    stop();
    shared_ = std::move(open_disk_cache(options_, ledger_).value());
    tier_.emplace(shared_, budget_, ledger_);
  }
  std::optional<Tokens> find(const std::string& key, const char* tenant = "alice") {
    auto fetch = tier_->look_up(TenantId(tenant), "m@1", key, 20'000);
    if (fetch == nullptr) return std::nullopt;
    std::promise<void> done;
    fetch->start([&] { done.set_value(); });
    done.get_future().wait();
    const auto values = fetch->take();
    return values.empty() ? std::nullopt : TokenTier::tokens_in(values[0]);
  }

  const TenantId alice_{"alice"};
  const std::string key_ = "a text's";
  const std::shared_ptr<TierBudget> budget_ = std::make_shared<TierBudget>(0, 1_MiB);
  std::shared_ptr<DiskCache> shared_;
  std::optional<TokenTier> tier_;
};

TEST_F(TokenTierTest, ARestartFindsThem) {
  const Tokens tokens{0, 1, 127, 128, 16'383, 16'384, 262'143, 2'147'483'647, 5};
  start();
  EXPECT_EQ(find(key_), std::nullopt);
  tier_->offer(alice_, key_, tokens);
  EXPECT_EQ(find(key_), tokens) << "from the buffer";
  start();
  EXPECT_EQ(find(key_), tokens) << "from the disk";
  EXPECT_EQ(find("another's"), std::nullopt);
  EXPECT_EQ(find(key_, "bob"), std::nullopt) << "another tenant";
  stop();
  EXPECT_EQ(budget_->fetched, 0U);
  for (const LedgerRow& row : ledger_.snapshot()) EXPECT_EQ(row.bytes, 0);
}

TEST_F(TokenTierTest, WhatHasNoRoomIsNotRead) {
  start();
  tier_->offer(alice_, key_, {1, 2, 3});
  budget_->fetched = 1_MiB;
  EXPECT_EQ(find(key_), std::nullopt);
  budget_->fetched = 0;
  EXPECT_EQ(find(key_), (Tokens{1, 2, 3}));
}

TEST(TokenTierValue, OnlyWholeTokensAreRead) {
  EXPECT_EQ(TokenTier::tokens_in("\x05\x80\x01"), (Tokens{5, 128}));
  EXPECT_EQ(TokenTier::tokens_in(""), std::nullopt);
  EXPECT_EQ(TokenTier::tokens_in("\x05\x80"), std::nullopt) << "cut";
  EXPECT_EQ(TokenTier::tokens_in("\xff\xff\xff\xff\x0f"), std::nullopt) << "over 31 bits";
  EXPECT_EQ(TokenTier::tokens_in("\x80\x80\x80\x80\x80\x80\x01"), std::nullopt) << "too long";
}

}  // namespace
}  // namespace plimsoll::storage
