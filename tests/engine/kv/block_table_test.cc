#include "engine/kv/block_table.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace plimsoll {
namespace {

// Six layers, of which the third and the sixth see all tokens: groups of two layers.
const KvLayout layout =
    KvLayout{.layers = 6, .kv_heads = 1, .head_dim = 16, .block_tokens = 16}.with_window(40, 3);

class BlockTableTest : public testing::Test {
 protected:
  std::vector<bool> windowed() const {  // by row
    std::vector<bool> rows;
    for (std::uint32_t r = 0; r < table_.rows(); ++r) {
      EXPECT_NE(table_.ids()[r * 3], no_block);
      const bool first = table_.ids()[r * 3 + 1] != no_block;
      EXPECT_EQ(table_.ids()[r * 3 + 2] != no_block, first);
      rows.push_back(first);
    }
    return rows;
  }
  std::uint32_t held() const { return pool_.capacity() - pool_.free_count(); }

  Ledger ledger_;
  Account& owner_ = ledger_.account(Component::kv, "m", TenantId("alice"));
  BlockPool pool_ = *BlockPool::make(layout, 14 * layout.block_bytes(),
                                     ledger_.account(Component::kv, "m", shared_tenant));
  BlockTable table_;
};

TEST_F(BlockTableTest, GivesBackWhatNoLayerSeesAnyMore) {
  ASSERT_EQ(layout.layer_groups(), 3U);
  for (int row = 0; row < 4; ++row) ASSERT_TRUE(table_.add_row(pool_, &owner_));
  EXPECT_EQ(table_.held(), 12U);
  // Behind 63 tokens the last whole row ends at 48: a text may go on there, which sees those from 9
  // on.
  EXPECT_FALSE(table_.passes(layout, 63));
  table_.pass(pool_, 63);
  EXPECT_EQ(table_.held(), 12U);
  EXPECT_TRUE(table_.passes(layout, 64));
  table_.pass(pool_, 64);
  EXPECT_EQ(windowed(), (std::vector{false, true, true, true}));
  EXPECT_EQ(table_.held(), 10U);
  EXPECT_EQ(held(), 10U);
  EXPECT_EQ(owner_.bytes(), static_cast<std::int64_t>(10 * layout.block_bytes()));
  table_.pass(pool_, 64);
  EXPECT_EQ(held(), 10U) << "only once";
  table_.clear(pool_);
  EXPECT_EQ(held(), 0U);
  EXPECT_EQ(owner_.bytes(), 0);
}

TEST_F(BlockTableTest, ARowIsTakenWholeOrNotAtAll) {
  for (int row = 0; row < 4; ++row) ASSERT_TRUE(table_.add_row(pool_, nullptr));
  EXPECT_FALSE(table_.add_row(pool_, nullptr));  // 2 blocks are left
  EXPECT_EQ(table_.rows(), 4U);
  EXPECT_EQ(pool_.free_count(), 2U);
  table_.pass(pool_, 64);
  EXPECT_TRUE(table_.add_row(pool_, nullptr));
  table_.clear(pool_);
}

TEST_F(BlockTableTest, GoesOnBehindRowsOfWhichItGotAPart) {
  std::vector<BlockId> ids(4 * 3, no_block);
  for (const int taken : {0, 3, 6, 7, 8, 9, 10, 11}) ids[taken] = *pool_.allocate();
  table_.assign(ids, layout);
  EXPECT_EQ(table_.rows(), 4U);
  EXPECT_EQ(table_.held(), 8U);
  table_.pass(pool_, 16 * 6);  // the third row too
  EXPECT_EQ(windowed(), (std::vector{false, false, false, true}));
  table_.clear(pool_);
  EXPECT_EQ(held(), 0U);
}

}  // namespace
}  // namespace plimsoll
