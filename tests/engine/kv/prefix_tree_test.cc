#include "engine/kv/prefix_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/kv/block_table.h"

namespace plimsoll {
namespace {

constexpr KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 16, .block_tokens = 16};
const TenantId alice{"alice"};
const TenantId bob{"bob"};

std::vector<TokenId> text(std::size_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class PrefixTreeTest : public testing::Test {
 protected:
  // Puts the full blocks of a finished sequence into the tree.
  std::vector<BlockId> finish(const std::string& salt, const TenantId& tenant,
                              const std::vector<TokenId>& tokens,
                              std::uint32_t tenant_blocks = ~0U) {
    std::vector<BlockId> blocks;
    for (std::size_t i = 0; i < tokens.size() / 16; ++i) blocks.push_back(*pool_.allocate());
    tree_.insert(salt, tenant, tokens, blocks, tenant_blocks);
    release(blocks);
    return blocks;
  }
  std::vector<BlockId> match(const std::string& salt, const TenantId& tenant,
                             const std::vector<TokenId>& tokens) {
    std::vector<BlockId> blocks;
    const std::uint32_t count = tree_.match(salt, tenant, tokens, blocks);
    EXPECT_EQ(count, blocks.size() * 16);
    return blocks;
  }
  std::size_t matched(const std::string& salt, const std::vector<TokenId>& tokens) {
    const auto blocks = match(salt, alice, tokens);
    release(blocks);
    return blocks.size();
  }
  void release(const std::vector<BlockId>& blocks) {
    for (const BlockId id : blocks) pool_.release(id);
  }
  std::int64_t charged(const TenantId& tenant) {
    return ledger_.account(Component::prefix_cache, "m", tenant).bytes();
  }

  Ledger ledger_;
  BlockPool pool_ = *BlockPool::make(layout, 12 * layout.block_bytes(),
                                     ledger_.account(Component::kv, "m", shared_tenant));
  PrefixTree tree_{pool_, ledger_, "m"};
};

TEST_F(PrefixTreeTest, GivesBackTheBlocksOfAKnownBeginning) {
  const auto blocks = finish("a", alice, text(40));
  EXPECT_EQ(tree_.size(), 2U);  // the third block is not full
  auto other = text(48);
  other[32] = 99;
  EXPECT_EQ(match("a", alice, other), blocks);
  EXPECT_EQ(pool_.references(blocks[1]), 2U);
  other[20] = 99;
  EXPECT_EQ(match("a", alice, other), std::vector<BlockId>{blocks[0]});
}

TEST_F(PrefixTreeTest, LeavesATokenToCompute) {
  finish("a", alice, text(32));
  EXPECT_EQ(matched("a", text(32)), 1U);
  EXPECT_EQ(matched("a", text(33)), 2U);
  EXPECT_EQ(matched("a", text(1)), 0U);
  EXPECT_EQ(matched("a", {}), 0U);
}

TEST_F(PrefixTreeTest, SharesNothingAcrossSalts) {
  finish("a", alice, text(32));
  EXPECT_EQ(matched("b", text(33)), 0U);
  EXPECT_EQ(matched("", text(33)), 0U);
}

TEST_F(PrefixTreeTest, ABlockIsKnownOnlyAfterItsOwnBeginning) {
  finish("a", alice, text(32));
  EXPECT_EQ(matched("a", text(17, 16)), 0U);  // the second block's tokens, at the beginning
}

TEST_F(PrefixTreeTest, AHashCollisionGivesNothingAway) {
  PrefixTree tree(pool_, ledger_, "m",
                  [](PrefixTree::Index, std::span<const TokenId>) { return std::uint64_t{1}; });
  std::vector<BlockId> blocks = {*pool_.allocate(), *pool_.allocate()};
  tree.insert("a", alice, text(32), blocks);
  tree.insert("b", bob, text(32, 500), blocks);
  EXPECT_EQ(tree.size(), 4U);
  std::vector<BlockId> found;
  EXPECT_EQ(tree.match("b", bob, text(33), found), 0U);
  EXPECT_EQ(tree.match("a", alice, text(33, 500), found), 0U);
  EXPECT_EQ(tree.match("a", alice, text(33), found), 32U);
  EXPECT_EQ(found, blocks);
}

TEST_F(PrefixTreeTest, KeepsTheFirstCopyOfABlock) {
  const auto first = finish("a", alice, text(16));
  finish("a", alice, text(16));
  EXPECT_EQ(tree_.size(), 1U);
  EXPECT_EQ(pool_.free_count(), 11U);
  EXPECT_EQ(match("a", alice, text(17)), first);
}

TEST_F(PrefixTreeTest, EvictsTheLeastRecentlyUsedFromTheLeaves) {
  finish("a", alice, text(48));           // 3 blocks
  finish("a", alice, text(32, 500));      // 2 blocks
  EXPECT_EQ(matched("a", text(49)), 3U);  // now the more recent
  EXPECT_EQ(tree_.evictable(), 5U);
  EXPECT_EQ(tree_.evict(3), 3U);
  EXPECT_EQ(matched("a", text(33, 500)), 0U);
  EXPECT_EQ(matched("a", text(49)), 2U);
  EXPECT_EQ(pool_.free_count(), 10U);
  EXPECT_EQ(tree_.evict(9), 2U);
  EXPECT_EQ(pool_.free_count(), 12U);
}

TEST_F(PrefixTreeTest, NeverEvictsWhatASequenceUses) {
  finish("a", alice, text(48));
  const auto used = match("a", alice, text(33));  // two of the three
  EXPECT_EQ(tree_.evictable(), 1U);
  EXPECT_EQ(tree_.evict(9), 1U);
  EXPECT_EQ(matched("a", text(49)), 2U);
  release(used);
  EXPECT_EQ(tree_.evictable(), 2U);
}

TEST_F(PrefixTreeTest, EvictsFromTheTenantThatHoldsMost) {
  finish("a", alice, text(32));  // the least recently used of all
  for (int i = 0; i < 4; ++i) finish("b", bob, text(32, 1000 * (i + 1)));
  EXPECT_EQ(tree_.evict(5), 5U);
  EXPECT_EQ(matched("a", text(48)), 2U);
  EXPECT_EQ(matched("b", text(48, 4000)), 2U) << "the youngest of its own is kept";
  EXPECT_EQ(tree_.stats(bob).blocks, 3U);
  // With as much as the other, both lose; what is in use stays, however much it is.
  const auto used = match("b", bob, text(48, 4000));
  EXPECT_EQ(tree_.evict(12), 3U);
  EXPECT_EQ(tree_.stats(bob).blocks, 2U);
  EXPECT_EQ(tree_.stats(alice).blocks, 0U);
  release(used);
}

TEST_F(PrefixTreeTest, AFloodOfNewBeginningsPushesOutItsOwn) {
  finish("a", alice, text(48));
  for (int i = 0; i < 40; ++i) {
    const std::uint32_t free = pool_.free_count();
    if (free < 4) tree_.evict(4 - free);
    finish("b", bob, text(64, 1000 * (i + 1)));
    EXPECT_EQ(tree_.stats(alice).blocks, 3U);
  }
  EXPECT_EQ(matched("a", text(64)), 3U);
}

TEST_F(PrefixTreeTest, StaysWithinItsLimit) {
  tree_.set_limit(3);
  finish("a", alice, text(48));
  finish("a", alice, text(32, 500));
  EXPECT_EQ(tree_.size(), 3U);
  EXPECT_EQ(matched("a", text(33, 500)), 2U);  // the newer came in, the older's leaves went
  EXPECT_EQ(matched("a", text(49)), 1U);
  // One text that is longer than the limit: its beginning stays, and nothing dangles.
  finish("a", alice, text(80, 900));
  EXPECT_EQ(tree_.size(), 3U);
  EXPECT_EQ(matched("a", text(81, 900)), 3U);
  tree_.set_limit(1);
  EXPECT_EQ(tree_.size(), 1U);
  tree_.set_limit(0);
  finish("a", alice, text(16));
  EXPECT_EQ(tree_.size(), 0U);
  EXPECT_EQ(pool_.free_count(), 12U);
}

// Whoever cached most gives up first, however long ago the others used theirs.
TEST_F(PrefixTreeTest, ALowerLimitCutsTheLargestTenantFirst) {
  finish("b", bob, text(32));  // the oldest of all
  finish("a", alice, text(96));
  finish("a", alice, text(48, 500));
  PrefixTree::Dropped dropped;
  tree_.set_limit(6, &dropped);
  EXPECT_EQ(dropped, (PrefixTree::Dropped{{alice, 5}}));
  EXPECT_EQ(tree_.stats(bob).blocks, 2U);
  dropped.clear();
  tree_.set_limit(3, &dropped);
  EXPECT_EQ(tree_.size(), 3U);
  EXPECT_GE(tree_.stats(bob).blocks, 1U);
  EXPECT_EQ(dropped[alice], 4 - tree_.stats(alice).blocks);
  dropped.clear();
  tree_.clear(&dropped);
  EXPECT_EQ(dropped[alice] + dropped[bob], 3U);
}

// What a sequence uses stays; the others make up for it.
TEST_F(PrefixTreeTest, ALowerLimitIsKeptThoughTheLargestTenantsBlocksAreInUse) {
  finish("b", bob, text(32));
  finish("a", alice, text(96));
  const auto used = match("a", alice, text(97));
  tree_.set_limit(6);
  EXPECT_EQ(tree_.size(), 6U);
  EXPECT_EQ(tree_.stats(bob).blocks, 0U);
  release(used);
}

TEST_F(PrefixTreeTest, ATenantAtItsLimitLosesItsOwnLeastRecentlyUsed) {
  finish("b", bob, text(48));  // the oldest of all
  finish("a", alice, text(32), 3);
  finish("a", alice, text(32, 500), 3);
  EXPECT_EQ(tree_.stats(alice).blocks, 3U);
  EXPECT_EQ(matched("a", text(33, 500)), 2U);
  EXPECT_EQ(matched("a", text(33)), 1U);
  // A text that is longer than the limit: its beginning stays.
  finish("a", alice, text(80, 900), 3);
  EXPECT_EQ(matched("a", text(81, 900)), 3U);
  // A smaller limit holds from the next text on; none at all keeps nothing.
  finish("a", alice, text(16, 700), 1);
  EXPECT_EQ(tree_.stats(alice).blocks, 1U);
  EXPECT_EQ(matched("a", text(17, 700)), 1U);
  finish("a", alice, text(16, 800), 0);
  EXPECT_EQ(matched("a", text(17, 800)), 0U);
  EXPECT_EQ(tree_.stats(bob).blocks, 3U);
  EXPECT_EQ(matched("b", text(49)), 3U);
  EXPECT_EQ(pool_.free_count(), 12U - tree_.size());
}

TEST_F(PrefixTreeTest, ATenantsLimitSparesWhatOthersBuildOn) {
  finish("group", alice, text(32), 2);
  finish("group", bob, text(48));  // his block hangs below hers
  finish("group", alice, text(32, 500), 2);
  EXPECT_EQ(matched("group", text(49)), 3U);
  EXPECT_EQ(matched("group", text(33, 500)), 0U);
  EXPECT_EQ(tree_.stats(alice).blocks, 2U);
}

TEST_F(PrefixTreeTest, ChargesNodesToTheTenantThatMadeThem) {
  finish("group", alice, text(32));
  finish("group", bob, text(48));
  EXPECT_GT(charged(bob), 0);
  EXPECT_EQ(charged(alice), 2 * charged(bob));
  EXPECT_EQ(tree_.stats(alice).blocks, 2U);
  EXPECT_EQ(tree_.stats(bob).blocks, 1U);
  tree_.clear();
  EXPECT_EQ(charged(alice), 0);
  EXPECT_EQ(charged(bob), 0);
  EXPECT_EQ(pool_.free_count(), 12U);
}

TEST_F(PrefixTreeTest, CountsHitsByTenant) {
  finish("a", alice, text(32));
  match("a", alice, text(40));
  match("b", bob, text(40));
  EXPECT_EQ(tree_.stats(alice).lookups_total, 1U);
  EXPECT_EQ(tree_.stats(alice).lookup_tokens_total, 40U);
  EXPECT_EQ(tree_.stats(alice).hit_tokens_total, 32U);
  EXPECT_EQ(tree_.stats(bob).hit_tokens_total, 0U);
  EXPECT_EQ(tree_.stats(TenantId{"nobody"}).lookups_total, 0U);
}

// Random sequences over few distinct tokens, so that beginnings often agree. What each block holds
// is remembered from outside; the tree must never hand out a block of other content.
TEST_F(PrefixTreeTest, RandomUseKeepsTheTreeAndThePoolInStep) {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    std::map<std::uint32_t, std::pair<std::string, std::vector<TokenId>>> content;
    std::vector<std::vector<BlockId>> running;
    for (int round = 0; round < 300; ++round) {
      const std::string salt(1, static_cast<char>('a' + random() % 2));
      std::vector<TokenId> tokens;
      for (std::uint32_t block = random() % 4; block-- > 0;) {
        tokens.insert(tokens.end(), 16, static_cast<TokenId>(random() % 2));
      }
      tokens.push_back(7);
      std::vector<BlockId> blocks;
      tree_.match(salt, alice, tokens, blocks);
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        const auto& [known_salt, known] = content.at(blocks[i].get());
        ASSERT_EQ(known_salt, salt);
        ASSERT_EQ(known, std::vector<TokenId>(tokens.begin(), tokens.begin() + 16 * (i + 1)));
      }
      bool fits = true;
      while (fits && blocks.size() < tokens.size() / 16) {
        if (pool_.free_count() == 0) {
          const std::uint32_t evictable = tree_.evictable();
          ASSERT_EQ(tree_.evict(1), evictable > 0 ? 1U : 0U);
        }
        const auto id = pool_.allocate();
        fits = id.has_value();
        if (!fits) break;
        blocks.push_back(*id);
        content[id->get()] = {
            salt, std::vector<TokenId>(tokens.begin(), tokens.begin() + 16 * blocks.size())};
      }
      if (random() % 2 == 0) tree_.insert(salt, alice, tokens, blocks);
      running.push_back(blocks);
      if (!fits || random() % 2 == 0) {
        std::swap(running[random() % running.size()], running.back());
        release(running.back());
        running.pop_back();
      }
      if (random() % 40 == 0) tree_.set_limit(random() % 12);
      if (random() % 60 == 0) tree_.clear();
    }
    for (const auto& blocks : running) release(blocks);
    ASSERT_EQ(tree_.evictable(), tree_.size());
    ASSERT_EQ(pool_.free_count() + tree_.size(), 12U);
    tree_.clear();
    tree_.set_limit(12);
    ASSERT_EQ(pool_.free_count(), 12U);
    ASSERT_EQ(charged(alice), 0);
  }
}

TEST_F(PrefixTreeTest, WhatLeavesIsShownWithItsTextUnlessItIsKnownElsewhereOrPrivate) {
  std::map<std::vector<TokenId>, std::string> left;
  tree_.set_on_leave([&](const KvPrefix& prefix, PrefixTree::Row row) {
    EXPECT_EQ(pool_.references(row.front()), 1U) << "its bytes are still there";
    left[{prefix.tokens.begin(), prefix.tokens.end()}] =
        std::string(prefix.salt) + " of " + prefix.tenant.get();
  });
  finish("s", alice, text(48));
  finish("s", bob, text(32, 500));
  std::vector<BlockId> blocks = {*pool_.allocate(), *pool_.allocate()};
  tree_.insert("s", alice, text(16, 100), std::span(blocks).first(1), ~0U, BlockOrigin::restored);
  tree_.insert("s", alice, text(16, 200), std::span(blocks).last(1), ~0U, BlockOrigin::unstored);
  release(blocks);
  EXPECT_EQ(tree_.known("s", text(60)), 48U);
  EXPECT_EQ(tree_.known("s", text(48)), 32U) << "one token is left to compute";
  EXPECT_EQ(tree_.known("t", text(60)), 0U);
  tree_.clear();
  EXPECT_EQ(left, (std::map<std::vector<TokenId>, std::string>{{text(16), "s of alice"},
                                                               {text(32), "s of alice"},
                                                               {text(48), "s of alice"},
                                                               {text(16, 500), "s of bob"},
                                                               {text(32, 500), "s of bob"}}));
}

TEST_F(PrefixTreeTest, WhatIsForgottenGoesWithoutAWordAndWhatIsUsedGoesSoLater) {
  std::set<std::vector<TokenId>> left;
  tree_.set_on_leave([&](const KvPrefix& prefix, PrefixTree::Row) {
    left.emplace(prefix.tokens.begin(), prefix.tokens.end());
  });
  finish("a", alice, text(48));
  finish("a", alice, text(16, 500));
  finish("b", bob, text(16, 700));
  const auto used = match("a", alice, text(33));  // two of the three
  tree_.forget(alice);
  EXPECT_EQ(tree_.stats(alice).blocks, 2U);
  EXPECT_EQ(tree_.stats(bob).blocks, 1U) << "another's stays";
  release(used);
  // One of the two is computed again, for somebody who may store it.
  finish("a", alice, text(16));
  tree_.clear();
  EXPECT_EQ(left, (std::set<std::vector<TokenId>>{text(16), text(16, 700)}));
  left.clear();
  finish("a", alice, text(48));
  finish("b", bob, text(16));
  tree_.forget(std::nullopt);
  EXPECT_EQ(tree_.size(), 0U);
  EXPECT_TRUE(left.empty()) << "of all tenants";
}

TEST_F(PrefixTreeTest, TheNewestComeFirstAndParentsBeforeChildren) {
  finish("s", alice, text(32));
  finish("s", alice, text(32, 500));
  std::vector<std::vector<TokenId>> seen;
  tree_.for_each_newest([&](const KvPrefix& prefix, PrefixTree::Row) {
    seen.emplace_back(prefix.tokens.begin(), prefix.tokens.end());
    return seen.size() < 3;
  });
  EXPECT_EQ(seen, (std::vector<std::vector<TokenId>>{text(16, 500), text(32, 500), text(16)}));
}

// Of three layers one sees all tokens, two see 40: the last three rows.
class WindowedPrefixTree : public testing::Test {
 protected:
  // A sequence that was computed in chunks of 32 tokens, and keeps what it may at each one's end.
  void compute(const std::vector<TokenId>& tokens, BlockOrigin origin = BlockOrigin::computed) {
    BlockTable table;
    for (std::size_t end = 32; end <= tokens.size(); end += 32) {
      for (int row = 0; row < 2; ++row) {
        if (pool_.free_count() < 3) tree_.evict(3 - pool_.free_count());
        ASSERT_TRUE(table.add_row(pool_, nullptr));
      }
      tree_.insert("a", alice, tokens, table.ids(), ~0U, origin);
      table.pass(pool_, static_cast<std::uint32_t>(end));
    }
    table.clear(pool_);
    check();
  }
  // In rows. What comes can be gone on with.
  std::size_t matched(const std::vector<TokenId>& tokens) {
    std::vector<BlockId> ids;
    const std::uint32_t count = tree_.match("a", alice, tokens, ids);
    EXPECT_EQ(ids.size(), count / 16 * 3);
    for (std::size_t r = 0; r < ids.size() / 3; ++r) {
      for (std::size_t g = 0; g < 3; ++g) {
        EXPECT_EQ(ids[r * 3 + g] != no_block, g == 0 || ids.size() / 3 - r <= 3);
      }
    }
    BlockTable table;
    table.assign(ids, windowed);
    table.clear(pool_);
    return count / 16;
  }
  // The tree counts what it holds, and nobody else holds anything.
  void check() {
    EXPECT_EQ(tree_.size(), pool_.capacity() - pool_.free_count());
    EXPECT_EQ(tree_.stats(alice).blocks, tree_.size());
    EXPECT_EQ(tree_.evictable(), tree_.size());
  }
  static std::vector<TokenId> forked(std::size_t at, std::size_t count, TokenId first = 1000) {
    auto tokens = text(at);
    for (const TokenId id : text(count - at, first)) tokens.push_back(id);
    return tokens;
  }

  const KvLayout windowed = KvLayout{.layers = 3, .kv_heads = 1, .head_dim = 16}.with_window(40, 3);
  Ledger ledger_;
  BlockPool pool_ = *BlockPool::make(windowed, 100 * windowed.block_bytes(),
                                     ledger_.account(Component::kv, "m", shared_tenant));
  PrefixTree tree_{pool_, ledger_, "m"};
};

TEST_F(WindowedPrefixTree, GoesOnBehindTheEndAndHoldsAWindowBeforeItOnly) {
  compute(text(160));
  EXPECT_EQ(tree_.size(), 10U + 4 * 2);
  EXPECT_EQ(matched(text(161)), 10U);
  EXPECT_EQ(matched(text(160)), 9U) << "a row more than the window: the same text again";
  // A conversation that goes on.
  EXPECT_EQ(matched(text(200)), 10U);
  compute(text(224));
  EXPECT_EQ(tree_.size(), 14U + 4 * 2);
  EXPECT_EQ(matched(text(225)), 14U);
}

TEST_F(WindowedPrefixTree, WhereATextWantedToGoOnItsWindowIsKept) {
  compute(text(160));
  EXPECT_EQ(tree_.known("a", text(105)), 96U);
  EXPECT_EQ(matched(text(105)), 0U) << "the rows are there, a window before their end is not";
  compute(text(224));
  EXPECT_EQ(matched(text(105)), 6U);
  EXPECT_EQ(tree_.size(), 14U + 2 * 4 * 2);
  // Until a text goes on beyond it.
  EXPECT_EQ(matched(text(225)), 14U);
  compute(text(224));
  EXPECT_EQ(tree_.size(), 14U + 4 * 2);
}

TEST_F(WindowedPrefixTree, WhatIsExpectedAgainIsKeptWhileTheTextGrows) {
  compute(text(96));
  tree_.expect("a", text(96));
  compute(text(224));
  EXPECT_EQ(matched(text(96)), 5U);
  EXPECT_EQ(matched(text(225)), 14U);
  tree_.expect("b", text(96));
  tree_.expect("a", text(5));
}

TEST_F(WindowedPrefixTree, WhereTextsPartAWindowIsKept) {
  compute(text(160));
  compute(forked(96, 192));
  EXPECT_EQ(matched(forked(96, 200, 2000)), 6U) << "the second showed that they part here";
  EXPECT_EQ(matched(text(161)), 10U);
  EXPECT_EQ(matched(forked(96, 193)), 12U);
  EXPECT_EQ(tree_.size(), (10 + 6) + (4 + 4 + 4) * 2U);
  // Near the beginning a window is all there is.
  compute(forked(16, 96, 3000));
  EXPECT_EQ(matched(forked(16, 40, 4000)), 1U);
}

TEST_F(WindowedPrefixTree, WhatSequencesHavePassedIsEvictedWithoutTheirRows) {
  compute(text(160));
  std::vector<BlockId> ids;
  ASSERT_EQ(tree_.match("a", alice, text(161), ids), 160U);
  BlockTable table;
  table.assign(ids, windowed);
  EXPECT_EQ(tree_.evictable(), 2U) << "of the row more";
  table.pass(pool_, 192);
  EXPECT_EQ(tree_.evictable(), 3U * 2) << "rows that are below the window now";
  EXPECT_EQ(tree_.evict(4), 4U);
  EXPECT_EQ(tree_.size(), 10U + 2 * 2);
  EXPECT_EQ(matched(text(161)), 0U);
  table.clear(pool_);
  check();
  EXPECT_EQ(tree_.evict(100), 14U);
  EXPECT_EQ(tree_.size(), 0U);
}

TEST_F(WindowedPrefixTree, WhatLeavesHasItsWindowedBlocksLastIfAtAll) {
  std::map<std::size_t, std::size_t> blocks;  // by tokens of the text
  tree_.set_on_leave([&](const KvPrefix& prefix, PrefixTree::Row row) {
    EXPECT_NE(row[0], no_block);
    EXPECT_EQ(row[1] == no_block, row[2] == no_block);
    blocks[prefix.tokens.size()] = row[2] == no_block ? 1 : 3;
  });
  compute(text(96));
  tree_.clear();
  EXPECT_EQ(blocks, (std::map<std::size_t, std::size_t>{
                        {16, 1}, {32, 1}, {48, 3}, {64, 3}, {80, 3}, {96, 3}}));
}

TEST_F(WindowedPrefixTree, RestoredRowsThatAreCompletedAreOfferedAgain) {
  std::set<std::size_t> left;
  tree_.set_on_leave(
      [&](const KvPrefix& prefix, PrefixTree::Row) { left.insert(prefix.tokens.size()); });
  compute(text(160), BlockOrigin::restored);
  compute(forked(96, 128));
  tree_.clear();
  EXPECT_THAT(left, testing::IsSupersetOf({64, 80, 96, 112, 128}));
  EXPECT_THAT(left, testing::Not(testing::Contains(testing::Gt(128))));
}

TEST_F(WindowedPrefixTree, RandomTextsAreMatchedAsDeepAsTheyCanBeGoneOnWith) {
  for (std::uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 60; ++i) {
      const std::size_t at = random() % 4 * 48;
      const auto text = forked(at, (at + 63) / 32 * 32 + random() % 6 * 32, 1000 * (random() % 5));
      const std::size_t known = tree_.known("a", text);
      const std::size_t matching = tree_.matching("a", text);
      EXPECT_LE(matching, known);
      EXPECT_EQ(matched(text) * 16, matching);
      compute(text);
      auto longer = text;
      longer.push_back(7);
      EXPECT_EQ(matched(longer), text.size() / 16);
      if (random() % 8 == 0) tree_.evict(random() % 20);
      if (random() % 20 == 0) tree_.set_limit(random() % 60 + 40);
      check();
    }
    tree_.clear();
    check();
    tree_.set_limit(100);
  }
}

}  // namespace
}  // namespace plimsoll
