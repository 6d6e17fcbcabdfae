#include "engine/loop/prefix_restore.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

namespace plimsoll {
namespace {

// A sequence waits as long as computing would have taken, but no shorter and no longer than this.
constexpr std::chrono::milliseconds least_wait{20}, most_wait{2'000};
constexpr std::chrono::milliseconds offer_again{2};

}  // namespace

PrefixRestore::PrefixRestore(std::shared_ptr<KvTier> tier, BlockPool& pool, PrefixTree& tree,
                             std::function<void()> wake)
    : tier_(std::move(tier)), pool_(pool), tree_(tree), wake_(std::move(wake)) {
  if (tier_ == nullptr) return;
  tree_.set_on_leave([this](const KvPrefix& prefix, PrefixTree::Row row) {
    if (may_offer_) (void)offer(prefix, row);
  });
}

PrefixRestore::~PrefixRestore() { tree_.set_on_leave({}); }

std::span<std::byte> PrefixRestore::bytes_of(BlockId block) const {
  const std::size_t bytes = pool_.layout().block_bytes();
  return {pool_.data() + block.get() * bytes, bytes};
}

bool PrefixRestore::offer(const KvPrefix& prefix, PrefixTree::Row row) {
  parts_.clear();
  for (const BlockId block : row) {
    if (block != no_block) parts_.emplace_back(bytes_of(block));
  }
  return tier_->offer(prefix, parts_);
}

bool PrefixRestore::begins_to_wait(Sequence& sequence, const StepCost& cost,
                                   Clock::time_point now) {
  if (tier_ == nullptr || !may_restore_ || sequence.looked_up || sequence.scores_prompt()) {
    return false;
  }
  sequence.looked_up = true;
  const std::uint32_t block_tokens = pool_.layout().block_tokens;
  const auto target = sequence.target_text();
  // As much as the tree may match: one token is left to compute.
  const auto whole = (target.size() - 1) / block_tokens * block_tokens;
  const std::uint32_t known = tree_.known(sequence.salt, target) / block_tokens;
  if (known * block_tokens >= whole) return false;
  auto fetch =
      tier_->look_up(KvPrefix(sequence.salt, sequence.request.tenant, target.first(whole)), known);
  if (fetch == nullptr) return false;
  auto wait = most_wait;
  if (cost.known()) {
    const double seconds = cost.added(known * block_tokens, fetch->blocks() * block_tokens);
    if (fetch->read_seconds() >= seconds) return false;
    wait = std::clamp(std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000)),
                      least_wait, most_wait);
  }
  sequence.fetch = std::move(fetch);
  sequence.fetch_first = known;
  sequence.fetch_until = now + wait;
  sequence.fetch->start(wake_);
  return true;
}

bool PrefixRestore::waits(Sequence& sequence, Clock::time_point now, std::uint32_t tenant_blocks,
                          const std::function<bool()>& make_room) {
  if (sequence.fetch == nullptr) return false;
  if (!sequence.fetch->done() && now < sequence.fetch_until) return true;
  put_into_tree(sequence, tenant_blocks, make_room);
  sequence.fetch.reset();
  // There may be more than could come at once.
  const auto target = sequence.target_text();
  sequence.looked_up =
      tree_.known(sequence.salt, target) <= sequence.fetch_first * pool_.layout().block_tokens;
  return false;
}

void PrefixRestore::put_into_tree(Sequence& sequence, std::uint32_t tenant_blocks,
                                  const std::function<bool()>& make_room) {
  const auto come = sequence.fetch->take();
  const std::uint32_t block_tokens = pool_.layout().block_tokens;
  std::vector<BlockId> blocks;
  const auto beginning =
      std::span(sequence.tokens).first(std::size_t{sequence.fetch_first} * block_tokens);
  tree_.hold(sequence.salt, beginning, blocks);
  // What the tree has given up since is not to be had from what came.
  const std::size_t groups = pool_.layout().layer_groups();
  if (blocks.size() == sequence.fetch_first * groups) {
    for (const std::string& bytes : come) {
      if (!put_row(bytes, sequence.kv, blocks, make_room)) break;
    }
    tree_.insert(sequence.salt, sequence.request.tenant, sequence.tokens, blocks, tenant_blocks,
                 BlockOrigin::restored);
    restored_tokens_ += (blocks.size() / groups - sequence.fetch_first) * block_tokens;
  }
  for (const BlockId block : blocks) {
    if (block != no_block) pool_.release(block);
  }
}

// Behind the others of a block table. False: there is no room, or these are not the bytes of one.
bool PrefixRestore::put_row(std::string_view bytes, Account* owner, std::vector<BlockId>& blocks,
                            const std::function<bool()>& make_room) {
  const KvLayout& layout = pool_.layout();
  const std::size_t each = layout.block_bytes();
  if (bytes.size() != layout.full_groups * each && bytes.size() != layout.layer_groups() * each) {
    return false;
  }
  if (!make_room() || pool_.free_count() < bytes.size() / each) return false;
  const std::size_t end = blocks.size() + layout.layer_groups();
  for (; !bytes.empty(); bytes.remove_prefix(each)) {
    blocks.push_back(*pool_.allocate(owner));
    std::memcpy(bytes_of(blocks.back()).data(), bytes.data(), each);
  }
  blocks.resize(end, no_block);
  return true;
}

void PrefixRestore::forget(const std::optional<TenantId>& tenant) {
  tree_.forget(tenant);
  if (tier_ != nullptr) tier_->forget(tenant);
}

void PrefixRestore::offer_all(Clock::time_point deadline) {
  if (tier_ == nullptr || !may_offer_) return;
  tree_.for_each_newest([&](const KvPrefix& prefix, PrefixTree::Row row) {
    while (!offer(prefix, row)) {
      if (Clock::now() >= deadline) return false;
      std::this_thread::sleep_for(offer_again);
    }
    return Clock::now() < deadline;
  });
}

}  // namespace plimsoll
