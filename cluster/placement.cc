#include "cluster/placement.h"

#include <cmath>

namespace plimsoll::cluster {
namespace {

// FNV-1a, then the finalizer of SplitMix64: the same on every machine and in every build.
std::uint64_t hash(std::string_view tenant, std::string_view node) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  const auto mix = [&h](std::string_view text) {
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    h = (h ^ 0xff) * 0x100000001b3ULL;  // ends the text: 0xff is in no UTF-8
  };
  mix(tenant);
  mix(node);
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

// -weight / ln(u), u uniform in (0, 1): the highest score wins with a chance of weight / sum.
double score(std::string_view tenant, const PlacementNode& node) {
  const double u = (static_cast<double>(hash(tenant, node.name) >> 11) + 0.5) * 0x1.0p-53;
  return -node.weight / std::log(u);
}

}  // namespace

std::optional<std::size_t> place(std::string_view tenant, std::span<const PlacementNode> nodes,
                                 double load_bound) {
  double load = 1;  // the one to be placed
  double weight = 0;
  for (const auto& node : nodes) {
    load += node.load;
    weight += node.weight;
  }
  std::optional<std::size_t> best;
  double best_score = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const double bound = std::ceil(load_bound * load * nodes[i].weight / weight);
    if (nodes[i].load + 1 > bound) continue;
    const double s = score(tenant, nodes[i]);
    if (!best || s > best_score) {
      best = i;
      best_score = s;
    }
  }
  return best;  // some node is below its share, so one was found unless there is none
}

}  // namespace plimsoll::cluster
