#include "cluster/placement.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace plimsoll::cluster {
namespace {

// FNV-1a, then the finalizer of SplitMix64: the same on every machine and in every build.
constexpr std::uint64_t basis = 0xcbf29ce484222325ULL;

std::uint64_t mix(std::uint64_t h, std::string_view text) {
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return (h ^ 0xff) * 0x100000001b3ULL;  // ends the text: 0xff is in no UTF-8
}

std::uint64_t finish(std::uint64_t h) {
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

// log2 of an integer in fixed point, 32 bits of fraction, digit by digit: std::log may differ
// between machines in its last bit, and two routers must agree.
std::uint64_t log2_fixed(std::uint64_t value) {
  const int top = 63 - std::countl_zero(value);
  std::uint64_t x = value << (63 - top);  // in [1, 2), 63 bits of fraction
  std::uint64_t result = static_cast<std::uint64_t>(top);
  for (int bit = 0; bit < 32; ++bit) {
    const auto square = static_cast<unsigned __int128>(x) * x;
    const bool carry = (square >> 127) != 0;
    x = static_cast<std::uint64_t>(square >> (carry ? 64 : 63));
    result = result << 1 | (carry ? 1 : 0);
  }
  return result;
}

// A node is contended where more than one in so many of its sequences waits.
constexpr std::uint64_t waiting_part = 5;

struct Scored {
  double score;
  std::size_t index;
};

// The first `size` of the tenant's order, best first. A node's score is -weight / log(u), u uniform
// in (0, 1): the highest one wins with a chance of weight / sum.
std::vector<Scored> first(std::string_view tenant, std::span<const PlacementNode> nodes,
                          std::size_t size) {
  const auto better = [&](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : nodes[a.index].name < nodes[b.index].name;
  };
  std::vector<Scored> best;  // a heap, the worst of them first
  size = std::min(size, nodes.size());
  if (size == 0) return best;
  best.reserve(size);
  const std::uint64_t salted = mix(basis, tenant);
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    // u = value / 2^54, odd: neither 0 nor 1.
    const std::uint64_t value = finish(mix(salted, nodes[i].name)) >> 11 << 1 | 1;
    const bool full = best.size() == size;
    // -log2(u) >= 1 - u: most nodes need no logarithm.
    const double rest = static_cast<double>((std::uint64_t{1} << 54) - value) * 0x1.0p-54;
    if (full && nodes[i].weight < best.front().score * rest) continue;
    const std::uint64_t log = (std::uint64_t{54} << 32) - log2_fixed(value);
    const Scored scored{nodes[i].weight / std::max(1.0, static_cast<double>(log)) * 0x1.0p32, i};
    if (full) {
      if (!better(scored, best.front())) continue;
      std::pop_heap(best.begin(), best.end(), better);
      best.pop_back();
    }
    best.push_back(scored);
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort_heap(best.begin(), best.end(), better);
  return best;
}

}  // namespace

std::size_t home_size(double tenant_weight, double all_weights, std::size_t nodes,
                      std::size_t least) {
  const double part = all_weights > 0 ? std::clamp(tenant_weight / all_weights, 0.0, 1.0) : 1.0;
  const auto size = static_cast<std::size_t>(std::ceil(part * static_cast<double>(nodes)));
  return std::min(std::max({size, least, std::size_t{1}}), nodes);
}

std::vector<std::size_t> home_set(std::string_view tenant, std::span<const PlacementNode> nodes,
                                  std::size_t size) {
  std::vector<std::size_t> out;
  for (const Scored& scored : first(tenant, nodes, size)) out.push_back(scored.index);
  return out;
}

std::optional<std::size_t> place(std::string_view tenant, std::span<const PlacementNode> nodes,
                                 std::size_t home_size, double load_bound) {
  double load = 1;  // the one to be placed
  double own = 1;
  double weight = 0;
  for (const auto& node : nodes) {
    load += node.load;
    own += node.own;
    weight += node.weight * node.factor;
  }
  const auto has_room = [&](const PlacementNode& node, bool spread) {
    const double part = node.weight * node.factor / weight;
    const bool contended = node.waiting * waiting_part > node.load;
    return node.load + 1.0 <= std::ceil(load_bound * load * part) &&
           (!spread || !contended || node.own + 1.0 <= std::ceil(own * part));
  };
  // Of the home set: most of the prefix, then least loaded, then first in the order.
  const auto wins = [](const PlacementNode& a, const PlacementNode& b) {
    if (a.prefix_blocks != b.prefix_blocks) return a.prefix_blocks > b.prefix_blocks;
    return a.load * b.weight * b.factor < b.load * a.weight * a.factor;
  };
  home_size = std::max<std::size_t>(home_size, 1);
  const auto search = [&](bool spread) {
    std::optional<std::size_t> best;
    std::size_t seen = 0;
    // Mostly there is room at home: the whole order is not needed.
    for (std::size_t size = home_size; !best && seen < nodes.size(); size *= 4) {
      const auto order = first(tenant, nodes, size);
      for (; seen < order.size(); ++seen) {
        const std::size_t index = order[seen].index;
        if (best && seen >= home_size) break;
        if (!has_room(nodes[index], spread)) continue;
        if (!best || wins(nodes[index], nodes[*best])) best = index;
      }
    }
    return best;
  };
  // Some node is below its share of all sequences, and some below its share of the tenant's own,
  // but no node may be both.
  const auto best = search(true);
  return best ? best : search(false);
}

}  // namespace plimsoll::cluster
