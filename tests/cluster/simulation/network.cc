#include "tests/cluster/simulation/network.h"

#include <algorithm>
#include <utility>

namespace plimsoll::simulation {

void Direction::send(World& world, double delay, std::function<void()> deliver) {
  if (cut_) {
    waiting_.push_back(std::move(deliver));
    return;
  }
  last_ = std::max(last_, world.now() + delay);
  world.in(last_ - world.now(), std::move(deliver));
}

void Direction::cut(const World& world) {
  if (!cut_) cut_since_ = world.now();
  cut_ = true;
}

void Direction::heal(World& world) {
  cut_ = false;
  const auto waiting = std::exchange(waiting_, {});
  for (const auto& deliver : waiting) send(world, 0.001, deliver);
}

Network::Network(World& world, std::size_t routers, std::size_t nodes)
    : world_(world), nodes_(nodes), links_(routers * nodes) {}

double Network::delay(const Link& link) {
  // Now and then a packet is lost and sent again.
  return link.delay * world_.between(1, 2) + (world_.chance(0.001) ? 0.2 : 0);
}

void Network::to_node(std::size_t router, std::size_t node, std::function<void()> deliver) {
  Link& l = link(router, node);
  l.to_node.send(world_, delay(l), std::move(deliver));
}

void Network::to_router(std::size_t router, std::size_t node, std::function<void()> deliver) {
  Link& l = link(router, node);
  l.to_router.send(world_, delay(l), std::move(deliver));
}

void Network::cut(std::size_t router, std::size_t node, bool to_node, bool to_router) {
  Link& l = link(router, node);
  if (to_node) l.to_node.cut(world_);
  if (to_router) l.to_router.cut(world_);
}

void Network::heal(std::size_t router, std::size_t node) {
  Link& l = link(router, node);
  if (l.to_node.is_cut() || l.to_router.is_cut()) l.whole_since = world_.now();
  if (l.to_node.is_cut()) l.to_node.heal(world_);
  if (l.to_router.is_cut()) l.to_router.heal(world_);
}

void Network::heal_all() {
  for (std::size_t i = 0; i < links_.size(); ++i) heal(i / nodes_, i % nodes_);
}

}  // namespace plimsoll::simulation
