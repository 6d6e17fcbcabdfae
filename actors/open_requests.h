// The requests that this process has open: how many, and who to end at shutdown.
#pragma once

#include <caf/all.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll {

class OpenRequests {
 public:
  explicit OpenRequests(std::uint32_t most) : most_(most) {}

  // Takes a place for a request; give it back with leave(). `name` is the client's own for it, if
  // it has one. Errors: unavailable (closed), resource_exhausted.
  Result<void> enter(std::uint64_t id, const std::string& name = {});
  void set_actor(std::uint64_t id, caf::strong_actor_ptr actor);  // of a request that has entered
  void leave(std::uint64_t id);
  caf::strong_actor_ptr find(
      const std::string& name) const;  // of the latest; null if there is none

  std::uint32_t count() const;
  bool closed() const;
  void close();  // nothing enters any more
  bool wait_until_empty(std::chrono::steady_clock::time_point deadline);
  std::vector<caf::strong_actor_ptr> actors() const;

 private:
  struct Entry {
    caf::strong_actor_ptr actor;
    std::string name;
  };
  const std::uint32_t most_;
  mutable std::mutex mutex_;
  std::condition_variable left_;
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::unordered_map<std::string, std::uint64_t> names_;
  bool closed_ = false;
};

}  // namespace plimsoll
