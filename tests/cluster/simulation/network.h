// Links between machines, as TCP shows them: what is sent arrives in order; while a direction is
// cut it waits, and arrives late once that heals. Links have nothing to do with each other, so that
// messages of different ones overtake each other.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "tests/cluster/simulation/world.h"

namespace plimsoll::simulation {

class Direction {
 public:
  void send(World& world, double delay, std::function<void()> deliver);
  void cut(const World& world);
  void heal(World& world);
  bool is_cut() const { return cut_; }
  double cut_since() const { return cut_since_; }

 private:
  bool cut_ = false;
  double cut_since_ = 0;
  double last_ = 0;  // when the last message arrives
  std::deque<std::function<void()>> waiting_;
};

struct Link {
  Direction to_node, to_router;
  double delay = 0.001;    // the shortest; a slow link has more
  double whole_since = 0;  // not cut
};

class Network {
 public:
  Network(World& world, std::size_t routers, std::size_t nodes);
  void to_node(std::size_t router, std::size_t node, std::function<void()> deliver);
  void to_router(std::size_t router, std::size_t node, std::function<void()> deliver);
  Link& link(std::size_t router, std::size_t node) { return links_[router * nodes_ + node]; }
  void cut(std::size_t router, std::size_t node, bool to_node, bool to_router);
  void heal(std::size_t router, std::size_t node);
  void heal_all();

 private:
  double delay(const Link& link);

  World& world_;
  std::size_t nodes_;
  std::vector<Link> links_;
};

}  // namespace plimsoll::simulation
