#include "engine/kv/prefix_tree.h"

#include <algorithm>
#include <cassert>
#include <functional>
#include <utility>

namespace plimsoll {

std::uint64_t PrefixTree::hash_tokens(Index parent, std::span<const TokenId> tokens) {
  const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  return std::hash<std::string_view>{}(bytes) + parent * 0x9E3779B97F4A7C15U;
}

PrefixTree::PrefixTree(BlockPool& pool, Ledger& ledger, std::string model_version, Hash hash)
    : pool_(pool),
      ledger_(ledger),
      model_version_(std::move(model_version)),
      hash_(hash),
      block_tokens_(pool.layout().block_tokens),
      groups_(pool.layout().layer_groups()),
      full_groups_(pool.layout().full_groups),
      window_rows_(pool.layout().window_rows()),
      limit_(pool.capacity()),
      holds_(pool.capacity()) {}

PrefixTree::~PrefixTree() { clear(); }

std::uint32_t PrefixTree::match(std::string_view salt, const TenantId& id,
                                std::span<const TokenId> tokens, std::vector<BlockId>& blocks) {
  if (tokens.empty()) return 0;
  TenantStats& stats = tenant(id).stats;
  ++stats.lookups_total;
  stats.lookup_tokens_total += tokens.size();
  const auto [last, depth, end, matched] = find(salt, tokens);
  if (last == none) return 0;
  for (Index node = nodes_[last].parent; node != none; node = nodes_[node].parent) {
    nodes_[node].wanted = false;
  }
  if (depth > matched) nodes_[last].wanted = true;
  const std::size_t first = blocks.size();
  blocks.resize(first + std::size_t{matched} * groups_, no_block);
  Index node = end;
  for (std::uint32_t r = matched; r > 0; --r, node = nodes_[node].parent) {
    const bool seen = matched - r < window_rows_;
    hold_row(node, seen, std::span(blocks).subspan(first + std::size_t{r - 1} * groups_, groups_));
  }
  touch_path(end);
  stats.hit_tokens_total += std::uint64_t{matched} * block_tokens_;
  return matched * block_tokens_;
}

void PrefixTree::insert(std::string_view salt, const TenantId& id, std::span<const TokenId> tokens,
                        std::span<const BlockId> blocks, std::uint32_t tenant_blocks,
                        BlockOrigin origin) {
  const std::size_t rows = blocks.size() / groups_;
  assert(blocks.size() % groups_ == 0 && tokens.size() >= rows * block_tokens_);
  if (limit_ == 0 || blocks.empty()) return;
  auto root = roots_.find(salt);
  if (root == roots_.end()) root = roots_.emplace(std::string(salt), new_node()).first;
  Tenant& owner = tenant(id);
  Index node = root->second;
  std::size_t r = 0;
  for (; r < rows; ++r) {
    const auto text = tokens.subspan(r * block_tokens_, block_tokens_);
    const std::uint64_t hash = hash_(node, text);
    Index child = find_child(node, hash, text);
    if (child == none) {
      const Row given = blocks.subspan(r * groups_, groups_);
      const bool windowed =
          groups_ > full_groups_ && rows - r <= window_rows_ + 1 && given.back() != no_block;
      const std::uint32_t more = blocks_of(windowed);
      // Counted as a child already, so that making room does not take the parent away.
      ++nodes_[node].children;
      if (!make_room(owner, more, (rows - r) * more, tenant_blocks)) {
        --nodes_[node].children;
        break;
      }
      owner.account->charge(node_bytes());
      child = new_node();
      nodes_[child].parent = node;
      nodes_[child].windowed = windowed;
      nodes_[child].hash = hash;
      nodes_[child].tenant = &owner;
      nodes_[child].origin = origin;
      std::ranges::copy(text, tokens_.begin() + std::size_t{child} * block_tokens_);
      by_hash_.emplace(hash, child);
      for (std::uint32_t g = 0; g < more; ++g) take_block(child, g, given[g]);
      count_blocks(owner, static_cast<std::int32_t>(more));
      link_newest(child);
    } else if (nodes_[child].origin == BlockOrigin::unstored) {
      nodes_[child].origin = origin;  // another may want what the first one did not
    }
    node = child;
  }
  touch_path(node);
  if (groups_ > full_groups_) keep_windows(node, blocks.first(r * groups_), tenant_blocks, origin);
  drop_empty_root(salt);
}

// For `more` blocks of a tenant now, and `coming`, these included, right after that.
bool PrefixTree::make_room(Tenant& owner, std::uint32_t more, std::size_t coming,
                           std::uint32_t tenant_blocks) {
  // All that is over at once: each eviction may walk the whole list.
  if (owner.stats.blocks + more > tenant_blocks) {
    coming = std::min<std::size_t>(coming, std::max(tenant_blocks, more));
    evict_from(owner, owner.stats.blocks + static_cast<std::uint32_t>(coming) - tenant_blocks);
  }
  if (size() + more > limit_) evict(size() + more - limit_);
  return owner.stats.blocks + more <= tenant_blocks && size() + more <= limit_;
}

// On the way from a row that was inserted to the root: windowed blocks are kept, or taken from what
// was given, a window before it and before each place where texts part or want to go on, and a row
// more, since a text that comes again is matched short of its last token. Elsewhere they go.
void PrefixTree::keep_windows(Index leaf, std::span<const BlockId> blocks,
                              std::uint32_t tenant_blocks, BlockOrigin origin) {
  std::uint32_t keep = window_rows_ + 1;
  Index node = leaf;
  ++nodes_[leaf].children;  // so that making room does not take the path away
  for (std::size_t r = blocks.size() / groups_; r > 0; --r, node = nodes_[node].parent) {
    if (nodes_[node].children > 1 || nodes_[node].wanted) keep = window_rows_ + 1;
    if (keep == 0) {
      drop_windowed(node);
      continue;
    }
    --keep;
    const Row given = blocks.subspan((r - 1) * groups_, groups_);
    if (nodes_[node].windowed || given.back() == no_block) continue;
    const std::uint32_t more = groups_ - full_groups_;
    if (!make_room(*nodes_[node].tenant, more, more, tenant_blocks)) continue;
    for (std::uint32_t g = full_groups_; g < groups_; ++g) take_block(node, g, given[g]);
    nodes_[node].windowed = true;
    // What a tier has of it is less.
    if (origin == BlockOrigin::computed) nodes_[node].origin = origin;
    count_blocks(*nodes_[node].tenant, static_cast<std::int32_t>(more));
  }
  --nodes_[leaf].children;
}

void PrefixTree::drop_windowed(Index index) {
  Node& node = nodes_[index];
  if (!node.windowed) return;
  for (std::uint32_t g = full_groups_; g < groups_; ++g) drop_block(index, g);
  node.windowed = false;
  count_blocks(*node.tenant, -static_cast<std::int32_t>(groups_ - full_groups_));
}

void PrefixTree::take_block(Index index, std::uint32_t group, BlockId block) {
  pool_.retain(block);
  ++holds_[block.get()];
  row(index)[group] = block;
}

void PrefixTree::drop_block(Index index, std::uint32_t group) {
  BlockId& block = row(index)[group];
  --holds_[block.get()];
  pool_.release(block);
  block = no_block;
}

PrefixTree::Index PrefixTree::find_root(std::string_view salt) const {
  const auto root = roots_.find(salt);
  return root == roots_.end() ? none : root->second;
}

// Behind a node, the one of a text's row: short of the text's last token. None: it is not known.
PrefixTree::Index PrefixTree::next_on(Index node, std::size_t row,
                                      std::span<const TokenId> tokens) const {
  if (node == none || (row + 1) * block_tokens_ >= tokens.size()) return none;
  const auto text = tokens.subspan(row * block_tokens_, block_tokens_);
  return find_child(node, hash_(node, text), text);
}

PrefixTree::Path PrefixTree::find(std::string_view salt, std::span<const TokenId> tokens) const {
  Path path;
  path.last = path.end = find_root(salt);
  std::uint32_t windowed = 0;  // the last rows, one after another
  for (Index next; (next = next_on(path.last, path.depth, tokens)) != none;) {
    path.last = next;
    ++path.depth;
    windowed = nodes_[next].windowed ? windowed + 1 : 0;
    if (windowed < std::min(path.depth, window_rows_)) continue;
    path.end = next;
    path.matched = path.depth;
  }
  return path;
}

void PrefixTree::expect(std::string_view salt, std::span<const TokenId> tokens) {
  if (groups_ == full_groups_) return;
  const Path path = find(salt, tokens);
  if (path.depth > 0) nodes_[path.last].wanted = true;
}

std::uint32_t PrefixTree::known(std::string_view salt, std::span<const TokenId> tokens) const {
  return find(salt, tokens).depth * block_tokens_;
}

std::uint32_t PrefixTree::matching(std::string_view salt, std::span<const TokenId> tokens) const {
  return find(salt, tokens).matched * block_tokens_;
}

void PrefixTree::hold(std::string_view salt, std::span<const TokenId> tokens,
                      std::vector<BlockId>& blocks) const {
  Index node = find_root(salt);
  for (std::size_t at = 0; node != none && at + block_tokens_ <= tokens.size();
       at += block_tokens_) {
    const auto text = tokens.subspan(at, block_tokens_);
    node = find_child(node, hash_(node, text), text);
    if (node == none) return;
    blocks.resize(blocks.size() + groups_, no_block);
    hold_row(node, nodes_[node].windowed, std::span(blocks).last(groups_));
  }
}

// Into an empty row of a block table.
void PrefixTree::hold_row(Index index, bool windowed, std::span<BlockId> blocks) const {
  for (std::uint32_t g = 0; g < blocks_of(windowed); ++g) {
    blocks[g] = row(index)[g];
    pool_.retain(blocks[g]);
  }
}

KvPrefix PrefixTree::prefix_of(Index index) {
  std::size_t length = 0;
  Index root = index;
  for (; nodes_[root].parent != none; root = nodes_[root].parent) length += block_tokens_;
  path_.resize(length);
  for (Index node = index; node != root; node = nodes_[node].parent) {
    length -= block_tokens_;
    std::copy_n(tokens_.begin() + std::size_t{node} * block_tokens_, block_tokens_,
                path_.begin() + static_cast<std::ptrdiff_t>(length));
  }
  const auto salt =
      std::ranges::find_if(roots_, [root](const auto& entry) { return entry.second == root; });
  return {salt->first, *nodes_[index].tenant->id, path_};
}

void PrefixTree::for_each_newest(const std::function<bool(const KvPrefix&, Row)>& see) {
  for (Index index = newest_; index != none; index = nodes_[index].older) {
    if (nodes_[index].origin != BlockOrigin::computed) continue;
    if (!see(prefix_of(index), row(index))) return;
  }
}

std::uint32_t PrefixTree::evict(std::uint32_t count) {
  std::uint32_t dropped = 0;
  spent_.clear();  // those of whom nothing can go
  const auto may_lose = [&](Tenant* holder) { return std::ranges::count(spent_, holder) == 0; };
  while (dropped < count) {
    const auto largest = std::ranges::find_if(holders_, may_lose);
    if (largest == holders_.end()) break;
    Tenant& owner = **largest;
    const auto next = std::find_if(std::next(largest), holders_.end(), may_lose);
    // Down to as much as the next one has.
    const std::uint32_t level = next == holders_.end() ? 0 : (*next)->stats.blocks;
    const std::uint32_t wanted = std::min(count - dropped, owner.stats.blocks - level + 1);
    const std::uint32_t gone = evict_from(owner, wanted);
    dropped += gone;
    if (gone < wanted) spent_.push_back(&owner);
  }
  return dropped;
}

std::uint32_t PrefixTree::evict_from(Tenant& owner, std::uint32_t count) {
  std::uint32_t dropped = 0;
  for (Index index = owner.oldest; index != none && dropped < count;) {
    const Index newer = nodes_[index].own_newer;
    const std::uint32_t blocks = blocks_of(nodes_[index].windowed);
    if (nodes_[index].children == 0 && pool_.references(first_block(index)) == 1) {
      remove(index);
      dropped += blocks;
    } else if (windowed_unused(index)) {
      if (on_leave_ && nodes_[index].origin == BlockOrigin::computed) {
        on_leave_(prefix_of(index), row(index));
        nodes_[index].origin = BlockOrigin::restored;  // the tier knows more of it
      }
      drop_windowed(index);
      dropped += blocks - full_groups_;
    }
    index = newer;
  }
  return dropped;
}

// Where a sequence uses the row, it may have passed what windowed layers see of it.
bool PrefixTree::windowed_unused(Index index) const {
  return nodes_[index].windowed && pool_.references(row(index).back()) == 1;
}

void PrefixTree::count_blocks(Tenant& owner, std::int32_t change) {
  blocks_ += static_cast<std::uint32_t>(change);
  auto handle = holders_.extract(&owner);
  owner.stats.blocks += change;
  if (owner.stats.blocks == 0) return;
  if (handle.empty()) {
    holders_.insert(&owner);
  } else {
    holders_.insert(std::move(handle));
  }
}

std::uint32_t PrefixTree::evictable() const {
  // A row can go once all rows below it can; those come earlier on this walk.
  gone_.assign(nodes_.size(), 0);
  std::uint32_t count = 0;
  for (Index index = oldest_; index != none; index = nodes_[index].newer) {
    const Node& node = nodes_[index];
    if (gone_[index] == node.children && pool_.references(first_block(index)) == 1) {
      ++gone_[node.parent];
      count += blocks_of(node.windowed);
    } else if (windowed_unused(index)) {
      count += groups_ - full_groups_;
    }
  }
  return count;
}

void PrefixTree::forget(const std::optional<TenantId>& tenant) {
  for (auto& [id, owner] : tenants_) {
    if (tenant && id != *tenant) continue;
    for (Index index = owner.oldest; index != none; index = nodes_[index].own_newer) {
      nodes_[index].origin = BlockOrigin::unstored;
    }
    evict_from(owner, owner.stats.blocks);
  }
}

void PrefixTree::set_limit(std::uint32_t blocks, Dropped* dropped) {
  limit_ = blocks;
  if (size() <= limit_) return;
  std::vector<std::pair<std::uint32_t, Tenant*>> holders;
  for (Tenant* tenant : holders_) holders.emplace_back(tenant->stats.blocks, tenant);
  // What each may keep: the level down to which the largest are cut. Filled from the smallest.
  std::uint32_t left = limit_;
  std::uint32_t keep = 0;
  for (std::size_t i = holders.size(); i-- > 0;) {
    keep = left / static_cast<std::uint32_t>(i + 1);
    if (holders[i].first > keep) break;
    left -= holders[i].first;
  }
  const auto drop = [&](Tenant& holder, std::uint32_t count) {
    const std::uint32_t gone = evict_from(holder, count);
    if (dropped != nullptr && gone > 0) (*dropped)[*holder.id] += gone;
  };
  for (const auto& [held, holder] : holders) {
    if (held > keep) drop(*holder, std::min(held - keep, size() - std::min(size(), limit_)));
  }
  for (const auto& [held, holder] : holders) {  // what some could not give up
    if (size() > limit_) drop(*holder, size() - limit_);
  }
}

void PrefixTree::clear(Dropped* dropped) {
  for (const auto& [id, tenant] : tenants_) {
    if (dropped != nullptr && tenant.stats.blocks > 0) (*dropped)[id] += tenant.stats.blocks;
  }
  while (oldest_ != none) {
    // Oldest first meets children before their parents.
    assert(nodes_[oldest_].children == 0);
    remove(oldest_);
  }
  nodes_ = {};
  tokens_ = {};
  ids_ = {};
  unused_ = {};
}

PrefixTree::TenantStats PrefixTree::stats(const TenantId& id) const {
  const auto found = tenants_.find(id);
  return found == tenants_.end() ? TenantStats{} : found->second.stats;
}

PrefixTree::Index PrefixTree::find_child(Index parent, std::uint64_t hash,
                                         std::span<const TokenId> tokens) const {
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const Index index = it->second;
    if (nodes_[index].parent != parent) continue;
    if (std::equal(tokens.begin(), tokens.end(),
                   tokens_.begin() + std::size_t{index} * block_tokens_)) {
      return index;
    }
  }
  return none;
}

PrefixTree::Index PrefixTree::new_node() {
  if (unused_.empty()) {
    nodes_.emplace_back();
    tokens_.resize(nodes_.size() * block_tokens_);
    ids_.resize(nodes_.size() * groups_, no_block);
    return static_cast<Index>(nodes_.size() - 1);
  }
  const Index index = unused_.back();
  unused_.pop_back();
  nodes_[index] = Node{};
  return index;
}

void PrefixTree::remove(Index index) {
  Node& node = nodes_[index];
  assert(node.children == 0);
  if (on_leave_ && node.origin == BlockOrigin::computed) on_leave_(prefix_of(index), row(index));
  const auto [begin, end] = by_hash_.equal_range(node.hash);
  by_hash_.erase(std::find_if(begin, end, [&](const auto& e) { return e.second == index; }));
  unlink(index);
  const std::uint32_t blocks = blocks_of(node.windowed);
  for (std::uint32_t g = 0; g < blocks; ++g) drop_block(index, g);
  node.tenant->account->release(node_bytes());
  count_blocks(*node.tenant, -static_cast<std::int32_t>(blocks));
  unused_.push_back(index);
  Node& parent = nodes_[node.parent];
  --parent.children;
  if (parent.parent == none && parent.children == 0) {
    const auto root = std::find_if(roots_.begin(), roots_.end(),
                                   [&](const auto& e) { return e.second == node.parent; });
    unused_.push_back(root->second);
    roots_.erase(root);
  }
}

void PrefixTree::drop_empty_root(std::string_view salt) {
  const auto root = roots_.find(salt);
  if (root == roots_.end() || nodes_[root->second].children > 0) return;
  unused_.push_back(root->second);
  roots_.erase(root);
}

void PrefixTree::unlink(Index index) {
  const Node& node = nodes_[index];
  (node.newer == none ? newest_ : nodes_[node.newer].older) = node.older;
  (node.older == none ? oldest_ : nodes_[node.older].newer) = node.newer;
  Tenant& owner = *node.tenant;
  (node.own_newer == none ? owner.newest : nodes_[node.own_newer].own_older) = node.own_older;
  (node.own_older == none ? owner.oldest : nodes_[node.own_older].own_newer) = node.own_newer;
}

void PrefixTree::link_newest(Index index) {
  nodes_[index].newer = none;
  nodes_[index].older = newest_;
  (newest_ == none ? oldest_ : nodes_[newest_].newer) = index;
  newest_ = index;
  Tenant& owner = *nodes_[index].tenant;
  nodes_[index].own_newer = none;
  nodes_[index].own_older = owner.newest;
  (owner.newest == none ? owner.oldest : nodes_[owner.newest].own_newer) = index;
  owner.newest = index;
}

void PrefixTree::touch_path(Index leaf) {
  for (Index index = leaf; nodes_[index].parent != none; index = nodes_[index].parent) {
    unlink(index);
    link_newest(index);
  }
}

PrefixTree::Tenant& PrefixTree::tenant(const TenantId& id) {
  const auto entry = tenants_.try_emplace(id).first;
  Tenant& tenant = entry->second;
  if (tenant.account == nullptr) {
    tenant.id = &entry->first;
    tenant.account = &ledger_.account(Component::prefix_cache, model_version_, id);
  }
  return tenant;
}

std::uint64_t PrefixTree::node_bytes() const {
  constexpr std::uint64_t hash_entry_bytes = 48;
  return sizeof(Node) + block_tokens_ * sizeof(TokenId) + groups_ * sizeof(BlockId) +
         hash_entry_bytes;
}

}  // namespace plimsoll
