// What a router thinks each node has cached of tenants' prompts: the hash chains of the blocks it
// sent there, the oldest forgotten first. Approximate: a node may have evicted them since.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace plimsoll::cluster {

// Chained hashes of a prompt's whole blocks, salted by tenant and model; at most `most` of them.
std::vector<std::uint64_t> prefix_hashes(std::string_view tenant, std::string_view model,
                                         std::span<const std::int32_t> prompt,
                                         std::uint32_t block_tokens = 16, std::size_t most = 128);

class PrefixMap {
 public:
  explicit PrefixMap(std::size_t most_entries = 1 << 16) : most_(most_entries) {}
  void sent(const std::string& node, std::span<const std::uint64_t> hashes);
  void forget(const std::string& node);  // it was lost
  // How many leading blocks the node is thought to hold.
  std::uint32_t held(const std::string& node, std::span<const std::uint64_t> hashes) const;
  std::size_t memory_bytes() const;

 private:
  struct Entry {
    std::uint64_t hash;
    std::vector<std::string> nodes;
  };
  std::size_t most_;
  std::list<Entry> order_;  // newest first
  std::unordered_map<std::uint64_t, std::list<Entry>::iterator> entries_;
};

}  // namespace plimsoll::cluster
