// Finished and running sequences' full KV blocks, kept so that a later sequence with the same
// beginning need not compute them again. Owned by the engine loop: not thread-safe.
//
// A tree for each salt: a tenant, or a group of tenants that the operator lets share. A node is a
// row of a block table, with its tokens, after its parent's; nodes are found by hash and then
// compared token by token, so that a collision never hands out another text's block, nor another
// salt's.
//
// The tree holds one reference to each of its blocks. What no sequence refers to is evicted when
// the pool needs blocks: of the tenant that put most into the tree, least recently used first. So a
// tenant that floods the cache pushes out its own, and whoever has an equal part keeps it.
//
// Where layers see a window alone, a node has blocks of these only where a text is likely to go on
// within a window behind it: before the end of what was inserted last, before places where texts
// part, and before those where one is expected or was found to want to go on. All others have those
// of the full layers, and no text can go on right behind them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/base/types.h"
#include "engine/kv/block_pool.h"
#include "engine/kv/kv_tier.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// Where a block came from: whether it is worth offering to a tier when it leaves the tree.
enum class BlockOrigin : std::uint8_t {
  computed,
  restored,  // from the tier, which knows it
  unstored,  // computed, and its tenant wants it to be nowhere else
};

class PrefixTree {
 public:
  using Index = std::uint32_t;
  using Hash = std::uint64_t (*)(Index parent, std::span<const TokenId> tokens);
  static std::uint64_t hash_tokens(Index parent, std::span<const TokenId> tokens);

  struct TenantStats {
    std::uint64_t lookups_total = 0;
    std::uint64_t lookup_tokens_total = 0;
    std::uint64_t hit_tokens_total = 0;
    std::uint32_t blocks = 0;  // that this tenant's sequences put into the tree
  };

  // Nodes are charged to prefix_cache, by the tenant that put them in; blocks are the pool's.
  // `pool` and `ledger` outlive the tree.
  PrefixTree(BlockPool& pool, Ledger& ledger, std::string model_version, Hash hash = hash_tokens);
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  // The longest known beginning of `tokens` that can be gone on with, in whole rows and short of
  // the last token, so that there is one left to compute. Its rows are appended to `blocks`, a
  // block table, each block with a reference for the caller. Returns how many tokens they hold.
  std::uint32_t match(std::string_view salt, const TenantId& tenant,
                      std::span<const TokenId> tokens, std::vector<BlockId>& blocks);
  // How many tokens it would find. Not counted as a use.
  std::uint32_t matching(std::string_view salt, std::span<const TokenId> tokens) const;

  // Keeps the rows of a block table, all full. What is known already keeps its first blocks. At the
  // limit the least recently used goes, and at the tenant's own limit, `tenant_blocks`, the least
  // recently used of those that it put in; where nothing can go, the rest is not kept.
  void insert(std::string_view salt, const TenantId& tenant, std::span<const TokenId> tokens,
              std::span<const BlockId> blocks, std::uint32_t tenant_blocks = ~0U,
              BlockOrigin origin = BlockOrigin::computed);

  // This text may come again, as it is: until one comes that goes further, match() finds as much of
  // it as there is now.
  void expect(std::string_view salt, std::span<const TokenId> tokens);

  // How many tokens of a text, short of the last one, are there, whether or not it can be gone on
  // with; and the rows of whole ones, with a reference to each block for the caller. Not counted as
  // a use.
  std::uint32_t known(std::string_view salt, std::span<const TokenId> tokens) const;
  void hold(std::string_view salt, std::span<const TokenId> tokens,
            std::vector<BlockId>& blocks) const;

  // Called with each row that leaves the tree, while its blocks still hold their bytes, and with
  // the text up to its end; not with what is restored or unstored.
  using Row = std::span<const BlockId>;  // `no_block` of windowed groups: at the end, if at all
  using Leave = std::function<void(const KvPrefix&, Row)>;
  void set_on_leave(Leave leave) { on_leave_ = std::move(leave); }
  // The same of what is in it, what was used last first and parents before their children, until
  // `see` returns false.
  void for_each_newest(const std::function<bool(const KvPrefix&, Row)>& see);

  // Drops `count` blocks that only the tree refers to, or the rest of a row more. Returns how many:
  // fewer where there are no more.
  std::uint32_t evict(std::uint32_t count);
  // How many evict() could drop.
  std::uint32_t evictable() const;

  // Drops the blocks that a tenant, or all, put in and that only the tree refers to. None of its
  // blocks is told of when it leaves, now or later, unless it is inserted again.
  void forget(const std::optional<TenantId>& tenant);

  // From now on at most this many blocks; drops what is over it, as far as no sequence uses it: of
  // the tenants that have more than an equal part of the limit first, the largest before the
  // others. Who lost how many blocks is added to `dropped`.
  using Dropped = std::map<TenantId, std::uint32_t>;
  void set_limit(std::uint32_t blocks, Dropped* dropped = nullptr);
  // Drops everything; sequences keep their references.
  void clear(Dropped* dropped = nullptr);

  std::uint32_t size() const { return blocks_; }  // in blocks
  bool holds(BlockId block) const { return holds_[block.get()] > 0; }
  TenantStats stats(const TenantId& id) const;

 private:
  static constexpr Index none = ~Index{0};

  struct Tenant {
    const TenantId* id = nullptr;
    Account* account = nullptr;
    TenantStats stats;
    Index newest = none, oldest = none;  // of its blocks
  };
  struct Larger {  // by blocks; of equals by name, so that what goes does not hang on addresses
    bool operator()(const Tenant* a, const Tenant* b) const {
      if (a->stats.blocks != b->stats.blocks) return a->stats.blocks > b->stats.blocks;
      return *a->id < *b->id;
    }
  };
  // The root of a salt, or a row. Rows are in a list from the most to the least recently used.
  // A row is moved to the front after its children, so it is always before them: walking from
  // the oldest meets children first.
  struct Node {
    Index parent = none;  // none: a root
    std::uint32_t children = 0;
    bool windowed = false;  // it has blocks of the windowed groups
    bool wanted = false;    // to go on behind
    std::uint64_t hash = 0;
    Index newer = none, older = none;          // of all
    Index own_newer = none, own_older = none;  // of its tenant's
    Tenant* tenant = nullptr;
    BlockOrigin origin = BlockOrigin::computed;
  };

  Index find_root(std::string_view salt) const;  // none: nothing of it is known
  Index next_on(Index node, std::size_t row, std::span<const TokenId> tokens) const;
  // Of a text: as far as it is known, and as far as it can be gone on with.
  struct Path {
    Index last = none;
    std::uint32_t depth = 0;  // rows
    Index end = none;
    std::uint32_t matched = 0;
  };
  Path find(std::string_view salt, std::span<const TokenId> tokens) const;
  // The text up to the end of a block, in path_.
  KvPrefix prefix_of(Index index);
  Index find_child(Index parent, std::uint64_t hash, std::span<const TokenId> tokens) const;
  Index new_node();
  std::span<BlockId> row(Index index) { return {&ids_[std::size_t{index} * groups_], groups_}; }
  Row row(Index index) const { return {&ids_[std::size_t{index} * groups_], groups_}; }
  BlockId first_block(Index index) const { return ids_[std::size_t{index} * groups_]; }
  std::uint32_t blocks_of(bool windowed) const {  // of a row
    return windowed ? groups_ : full_groups_;
  }
  bool windowed_unused(Index index) const;
  bool make_room(Tenant& owner, std::uint32_t more, std::size_t coming,
                 std::uint32_t tenant_blocks);
  void hold_row(Index index, bool windowed, std::span<BlockId> blocks) const;
  void keep_windows(Index leaf, std::span<const BlockId> blocks, std::uint32_t tenant_blocks,
                    BlockOrigin origin);
  void drop_windowed(Index index);
  void take_block(Index index, std::uint32_t group, BlockId block);
  void drop_block(Index index, std::uint32_t group);
  void remove(Index index);
  std::uint32_t evict_from(Tenant& owner, std::uint32_t count);
  void count_blocks(Tenant& owner, std::int32_t change);
  void unlink(Index index);
  void link_newest(Index index);
  void touch_path(Index leaf);
  void drop_empty_root(std::string_view salt);
  Tenant& tenant(const TenantId& id);
  std::uint64_t node_bytes() const;

  BlockPool& pool_;
  Ledger& ledger_;
  std::string model_version_;
  Hash hash_;
  const std::uint32_t block_tokens_, groups_, full_groups_, window_rows_;
  std::uint32_t limit_;
  std::uint32_t blocks_ = 0;
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;  // [nodes, block_tokens]
  std::vector<BlockId> ids_;     // [nodes, groups]
  std::vector<Index> unused_;
  std::map<std::string, Index, std::less<>> roots_;  // by salt
  std::unordered_multimap<std::uint64_t, Index> by_hash_;
  Index newest_ = none, oldest_ = none;
  Leave on_leave_;
  std::vector<TokenId> path_;                // prefix_of()'s
  std::vector<std::uint32_t> holds_;         // by block: how many nodes
  mutable std::vector<std::uint32_t> gone_;  // evictable()'s scratch
  std::map<TenantId, Tenant> tenants_;
  std::set<Tenant*, Larger> holders_;  // those with blocks, the largest first
  std::vector<const Tenant*> spent_;   // evict()'s scratch
};

}  // namespace plimsoll
