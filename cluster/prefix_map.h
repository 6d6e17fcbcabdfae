// What a router thinks each node has cached of tenants' prompts: the hash chains of the blocks it
// sent there, the oldest forgotten first. Approximate: a node may have evicted them since, and of a
// block that went to many nodes only the last few are known.
#pragma once

#include <algorithm>
#include <array>
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
  explicit PrefixMap(std::size_t most_entries = 1 << 16)
      : most_(std::max<std::size_t>(most_entries, 1)) {}
  void sent(const std::string& node, std::span<const std::uint64_t> hashes);
  void forget(const std::string& node);  // it was lost
  // How many leading blocks the node is thought to hold.
  std::uint32_t held(const std::string& node, std::span<const std::uint64_t> hashes) const;
  std::size_t memory_bytes() const;

 private:
  static constexpr std::uint32_t nobody = ~std::uint32_t{0};
  struct Entry {
    std::uint64_t hash = 0;
    std::array<std::uint32_t, 4> nodes{nobody, nobody, nobody, nobody};  // newest first
  };
  std::size_t most_;
  std::list<Entry> order_;  // newest first
  std::unordered_map<std::uint64_t, std::list<Entry>::iterator> entries_;
  std::map<std::string, std::uint32_t> ids_;  // of nodes
  std::uint32_t next_id_ = 0;
};

}  // namespace plimsoll::cluster
