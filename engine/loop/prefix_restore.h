// The engine loop's dealings with a tier below the prefix tree: blocks that the tree gives up are
// offered to it, and a sequence that is about to start waits for those of its prefix that are
// there, where reading is expected to be faster than computing. On the engine's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/batching/step_cost.h"
#include "engine/kv/block_pool.h"
#include "engine/kv/kv_tier.h"
#include "engine/kv/prefix_tree.h"
#include "engine/loop/sequence.h"

namespace plimsoll {

class PrefixRestore {
 public:
  using Clock = Sequence::Clock;

  // `tier` may be null: then nothing is done. Pool and tree outlive this. `wake` is called on any
  // thread when blocks have come.
  PrefixRestore(std::shared_ptr<KvTier> tier, BlockPool& pool, PrefixTree& tree,
                std::function<void()> wake);
  ~PrefixRestore();

  // Whether blocks that leave the tree are offered, and whether any are brought back: pressure may
  // leave no room for either.
  void set_allowed(bool offer, bool restore) {
    may_offer_ = offer;
    may_restore_ = restore;
  }

  // Whether a sequence that could start now has to wait for blocks instead.
  bool begins_to_wait(Sequence& sequence, const StepCost& cost, Clock::time_point now);
  // Whether it still waits. If not, nothing is under way for it any more: what has come is in the
  // tree, as far as `make_room`, which says whether the pool may give a row of blocks more, allows.
  bool waits(Sequence& sequence, Clock::time_point now, std::uint32_t tenant_blocks,
             const std::function<bool()>& make_room);

  // What was computed for a tenant, or for all, before this gets to no tier: not from the tree, nor
  // from what was offered already.
  void forget(const std::optional<TenantId>& tenant);

  // Offers all that the tree holds, what was used last first, and waits for room until the
  // deadline.
  void offer_all(Clock::time_point deadline);

  std::uint64_t restored_tokens() const { return restored_tokens_; }

 private:
  void put_into_tree(Sequence& sequence, std::uint32_t tenant_blocks,
                     const std::function<bool()>& make_room);
  std::span<std::byte> bytes_of(BlockId block) const;
  bool offer(const KvPrefix& prefix, PrefixTree::Row row);
  bool put_row(std::string_view bytes, Account* owner, std::vector<BlockId>& blocks,
               const std::function<bool()>& make_room);

  const std::shared_ptr<KvTier> tier_;
  BlockPool& pool_;
  PrefixTree& tree_;
  const std::function<void()> wake_;
  bool may_offer_ = true, may_restore_ = true;
  std::uint64_t restored_tokens_ = 0;
  std::vector<std::span<const std::byte>> parts_;  // offer()'s
};

}  // namespace plimsoll
