// Time, chance and order of a simulated cluster: one thread, one queue of events, one seeded
// generator. The same seed gives the same run, event by event.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace plimsoll::simulation {

// What must never happen did.
struct Violation {
  std::string what;
};

class World {
 public:
  World(std::uint64_t seed, bool traces) : random_(seed), traces_(traces) {}

  double now() const { return now_; }  // seconds; what no machine's clock shows exactly
  std::uint64_t events() const { return count_; }

  // Events of the same moment happen in the order in which they were made.
  void in(double delay, std::function<void()> event);
  void run(double end);

  double uniform() { return static_cast<double>(random_() >> 11) * 0x1.0p-53; }
  double between(double low, double high) { return low + (high - low) * uniform(); }
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  std::size_t index(std::size_t n) { return static_cast<std::size_t>(below(n)); }
  bool chance(double probability) { return uniform() < probability; }
  double exponential(double mean);

  template <class... Args>
  void trace(fmt::format_string<Args...> format, Args&&... args) {
    if (traces_) print(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if (!holds) throw Violation{fmt::format(format, std::forward<Args>(args)...)};
  }

 private:
  struct Event {
    double time;
    std::uint64_t number;
    std::function<void()> run;
  };
  void print(const std::string& line) const;

  std::mt19937_64 random_;
  bool traces_;
  double now_ = 0;
  std::uint64_t count_ = 0;
  std::vector<Event> queue_;  // a heap
  std::uint64_t next_number_ = 0;
};

}  // namespace plimsoll::simulation
