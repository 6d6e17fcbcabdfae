#include "engine/kv/block_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

namespace plimsoll {
namespace {

// Blocks of 6 KiB: not a multiple of a page, so that neighbours share one.
constexpr KvLayout layout{.layers = 3, .kv_heads = 1, .head_dim = 32, .block_tokens = 16};

class BlockPoolTest : public testing::Test {
 protected:
  BlockPool make(std::uint32_t blocks) {
    auto pool = BlockPool::make(layout, blocks * layout.block_bytes(), account_);
    EXPECT_TRUE(pool) << to_string(pool.error());
    return std::move(*pool);
  }
  void fill(BlockPool& pool, BlockId id, int value) {
    std::memset(pool.data() + id.get() * layout.block_bytes(), value, layout.block_bytes());
  }
  int byte(const BlockPool& pool, BlockId id, std::size_t offset) {
    return std::to_integer<int>(pool.data()[id.get() * layout.block_bytes() + offset]);
  }
  // Of the pool's own pages, what the kernel holds in memory.
  std::uint64_t resident(const BlockPool& pool) {
    const std::uint64_t page = sysconf(_SC_PAGESIZE);
    const std::uint64_t bytes = pool.capacity() * layout.block_bytes();
    std::vector<unsigned char> pages((bytes + page - 1) / page);
    EXPECT_EQ(mincore(pool.data(), bytes, pages.data()), 0);
    std::uint64_t count = 0;
    for (const unsigned char p : pages) count += p & 1;
    return count * page;
  }

  Ledger ledger_;
  Account& account_ = ledger_.account(Component::kv, "m", shared_tenant);
};

TEST_F(BlockPoolTest, RefusesABudgetThatHoldsNoBlock) {
  const auto pool = BlockPool::make(layout, layout.block_bytes() - 1, account_);
  ASSERT_FALSE(pool);
  EXPECT_EQ(pool.error().code, ErrorCode::resource_exhausted);
  EXPECT_NE(pool.error().message.find(std::to_string(layout.block_bytes())), std::string::npos);
}

TEST_F(BlockPoolTest, GivesEveryBlockOnceAndThenRefuses) {
  BlockPool pool = make(5);
  std::vector<bool> given(5);
  for (int i = 0; i < 5; ++i) {
    const auto id = pool.allocate();
    ASSERT_TRUE(id);
    EXPECT_FALSE(given[id->get()]);
    given[id->get()] = true;
    EXPECT_EQ(pool.references(*id), 1U);
  }
  EXPECT_EQ(pool.free_count(), 0U);
  EXPECT_EQ(pool.allocate().error().code, ErrorCode::resource_exhausted);
}

TEST_F(BlockPoolTest, ABlockReturnsWithItsLastReference) {
  BlockPool pool = make(2);
  const BlockId id = *pool.allocate();
  pool.retain(id);
  pool.release(id);
  EXPECT_EQ(pool.free_count(), 1U);
  pool.release(id);
  EXPECT_EQ(pool.free_count(), 2U);
}

TEST_F(BlockPoolTest, CopiesASharedBlockOnWriteOnly) {
  BlockPool pool = make(2);
  const BlockId id = *pool.allocate();
  fill(pool, id, 7);
  EXPECT_EQ(*pool.writable(id), id);
  pool.retain(id);
  const BlockId copy = *pool.writable(id);
  EXPECT_NE(copy, id);
  EXPECT_EQ(pool.references(id), 1U);
  EXPECT_EQ(pool.references(copy), 1U);
  fill(pool, copy, 9);
  EXPECT_EQ(byte(pool, id, 0), 7);
  EXPECT_EQ(byte(pool, copy, layout.block_bytes() - 1), 9);
}

TEST_F(BlockPoolTest, KeepsTheReferenceWhereNoCopyFits) {
  BlockPool pool = make(1);
  const BlockId id = *pool.allocate();
  pool.retain(id);
  EXPECT_EQ(pool.writable(id).error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(pool.references(id), 2U);
}

TEST_F(BlockPoolTest, ChargesWhatIsResident) {
  BlockPool pool = make(64);
  EXPECT_EQ(account_.bytes(), 0);
  EXPECT_EQ(resident(pool), 0U);
  std::vector<BlockId> held;
  for (int i = 0; i < 20; ++i) {
    held.push_back(*pool.allocate());
    fill(pool, held.back(), 1);
  }
  const auto page = static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
  EXPECT_EQ(account_.bytes(), static_cast<std::int64_t>(20 * layout.block_bytes()));
  EXPECT_NEAR(static_cast<double>(resident(pool)), static_cast<double>(account_.bytes()), page);

  // A free block stays resident, and charged, until the pool is trimmed.
  for (int i = 4; i < 20; ++i) pool.release(held[i]);
  EXPECT_EQ(account_.bytes(), static_cast<std::int64_t>(20 * layout.block_bytes()));
  EXPECT_EQ(pool.trim(), 16 * layout.block_bytes());
  EXPECT_EQ(account_.bytes(), static_cast<std::int64_t>(4 * layout.block_bytes()));
  EXPECT_NEAR(static_cast<double>(resident(pool)), static_cast<double>(account_.bytes()), page);
  EXPECT_EQ(pool.trim(), 0U);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(byte(pool, held[i], 100), 1);
}

TEST_F(BlockPoolTest, TrimNeverTouchesABlockInUse) {
  std::mt19937 random(3);
  BlockPool pool = make(40);
  std::vector<std::pair<BlockId, int>> held;
  for (int round = 0; round < 300; ++round) {
    if (random() % 2 == 0 && pool.free_count() > 0) {
      const BlockId id = *pool.allocate();
      const int value = 1 + static_cast<int>(random() % 255);
      fill(pool, id, value);
      held.emplace_back(id, value);
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      pool.release(held.back().first);
      held.pop_back();
    }
    if (round % 7 == 0) pool.trim();
    for (const auto& [id, value] : held) {
      ASSERT_EQ(byte(pool, id, 0), value);
      ASSERT_EQ(byte(pool, id, layout.block_bytes() - 1), value);
    }
  }
}

TEST_F(BlockPoolTest, ReleasesItsChargeWhenItGoes) {
  {
    BlockPool pool = make(4);
    (void)*pool.allocate();
    BlockPool moved = std::move(pool);
    EXPECT_EQ(account_.bytes(), static_cast<std::int64_t>(layout.block_bytes()));
  }
  EXPECT_EQ(account_.bytes(), 0);
}

TEST(BlockPoolOwner, ABlockIsChargedToWhoeverHoldsIt) {
  Ledger ledger;
  Account& idle = ledger.account(Component::kv, "m", shared_tenant);
  Account& tenant = ledger.account(Component::kv, "m", TenantId("a"));
  const KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 16, .block_tokens = 16};
  const auto bytes = static_cast<std::int64_t>(layout.block_bytes());
  {
    BlockPool pool = *BlockPool::make(layout, 4 * layout.block_bytes(), idle);
    const BlockId id = *pool.allocate(&tenant);
    EXPECT_EQ(tenant.bytes(), bytes);
    EXPECT_EQ(idle.bytes(), 0);
    pool.retain(id);
    pool.release(id);
    EXPECT_EQ(tenant.bytes(), bytes) << "somebody still holds it";
    pool.release(id);
    EXPECT_EQ(tenant.bytes(), 0);
    EXPECT_EQ(idle.bytes(), bytes) << "its pages are still there";
    const BlockId again = *pool.allocate(&tenant);
    EXPECT_EQ(idle.bytes(), 0) << "a warm block is used first";
    EXPECT_EQ(tenant.bytes(), bytes);
    (void)again;
  }
  EXPECT_EQ(tenant.bytes() + idle.bytes(), 0);
}

}  // namespace
}  // namespace plimsoll
