#include "cluster/prefix_map.h"

#include <algorithm>

namespace plimsoll::cluster {
namespace {

std::uint64_t mix(std::uint64_t h, std::uint64_t value) {
  h = (h ^ value) * 0xbf58476d1ce4e5b9ULL;
  return h ^ (h >> 31);
}

std::uint64_t mix(std::uint64_t h, std::string_view text) {
  for (const char c : text) h = mix(h, static_cast<unsigned char>(c));
  return mix(h, 0xff);  // ends the text
}

}  // namespace

std::vector<std::uint64_t> prefix_hashes(std::string_view tenant, std::string_view model,
                                         std::span<const std::int32_t> prompt,
                                         std::uint32_t block_tokens, std::size_t most) {
  std::vector<std::uint64_t> out(std::min(most, prompt.size() / block_tokens));
  std::uint64_t h = mix(mix(0xcbf29ce484222325ULL, tenant), model);
  std::size_t token = 0;
  for (auto& hash : out) {
    for (std::uint32_t i = 0; i < block_tokens; ++i) {
      h = mix(h, static_cast<std::uint32_t>(prompt[token++]));
    }
    hash = h;
  }
  return out;
}

void PrefixMap::sent(const std::string& node, std::span<const std::uint64_t> hashes) {
  const auto [known, is_new] = ids_.try_emplace(node, next_id_);
  if (is_new) ++next_id_;
  const std::uint32_t id = known->second;
  // From the last: a block is forgotten before those that it follows.
  for (auto hash = hashes.rbegin(); hash != hashes.rend(); ++hash) {
    const auto it = entries_.find(*hash);
    if (it != entries_.end()) {
      order_.splice(order_.begin(), order_, it->second);
    } else {
      if (entries_.size() >= most_) {
        entries_.erase(order_.back().hash);
        order_.pop_back();
      }
      order_.push_front({.hash = *hash});
      entries_[*hash] = order_.begin();
    }
    auto& nodes = order_.front().nodes;
    auto place = std::ranges::find(nodes, id);
    if (place == nodes.end()) *--place = id;
    std::rotate(nodes.begin(), place, place + 1);
  }
}

void PrefixMap::forget(const std::string& node) {
  const auto known = ids_.find(node);
  if (known == ids_.end()) return;
  for (Entry& entry : order_) {
    const auto last = std::remove(entry.nodes.begin(), entry.nodes.end(), known->second);
    std::fill(last, entry.nodes.end(), nobody);
  }
  ids_.erase(known);
}

std::uint32_t PrefixMap::held(const std::string& node,
                              std::span<const std::uint64_t> hashes) const {
  const auto known = ids_.find(node);
  if (known == ids_.end()) return 0;
  std::uint32_t blocks = 0;
  for (const std::uint64_t hash : hashes) {
    const auto it = entries_.find(hash);
    if (it == entries_.end()) break;
    if (std::ranges::find(it->second->nodes, known->second) == it->second->nodes.end()) break;
    ++blocks;
  }
  return blocks;
}

std::size_t PrefixMap::memory_bytes() const {
  constexpr std::size_t links = 2 * sizeof(void*);
  constexpr std::size_t each =
      sizeof(Entry) + links + sizeof(std::uint64_t) + sizeof(void*) + links;
  std::size_t bytes = entries_.size() * each + entries_.bucket_count() * sizeof(void*);
  for (const auto& [name, id] : ids_) bytes += sizeof(name) + name.capacity() + 2 * links;
  return bytes;
}

}  // namespace plimsoll::cluster
