#include "tests/cluster/simulation/world.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace plimsoll::simulation {

void World::in(double delay, std::function<void()> event) {
  queue_.push_back({now_ + delay, next_number_++, std::move(event)});
  std::ranges::push_heap(queue_, [](const Event& a, const Event& b) {
    return std::pair(a.time, a.number) > std::pair(b.time, b.number);
  });
}

void World::run(double end) {
  while (!queue_.empty() && queue_.front().time <= end) {
    std::ranges::pop_heap(queue_, [](const Event& a, const Event& b) {
      return std::pair(a.time, a.number) > std::pair(b.time, b.number);
    });
    const Event event = std::move(queue_.back());
    queue_.pop_back();
    now_ = event.time;
    ++count_;
    event.run();
  }
  now_ = std::max(now_, end);
}

double World::exponential(double mean) { return -mean * std::log1p(-uniform()); }

void World::print(const std::string& line) const {
  std::fprintf(stderr, "%10.4f %s\n", now_, line.c_str());
}

}  // namespace plimsoll::simulation
