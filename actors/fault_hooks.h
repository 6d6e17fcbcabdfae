// Switches for fire drills, from the environment: what the memory governor protects from is made to
// happen. Loudly logged; see "Fire drills" in docs/OPERATING.md.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/base/result.h"

namespace plimsoll {

struct FaultHooks {
  bool governor = true;                     // PLIMSOLL_FAULT_GOVERNOR=off
  std::uint64_t leak_bytes_per_second = 0;  // PLIMSOLL_FAULT_LEAK=BYTES
  bool operator==(const FaultHooks&) const = default;
};

// Either may be null: not set. Errors: invalid_argument.
Result<FaultHooks> parse_fault_hooks(const char* governor, const char* leak);
// From this process's environment; what is set is logged.
Result<FaultHooks> read_fault_hooks();

// Takes memory that is charged to nobody, touches it, and gives it back in the end.
class Leak {
 public:
  explicit Leak(std::uint64_t bytes_per_second);
  ~Leak();
  Leak(const Leak&) = delete;
  Leak& operator=(const Leak&) = delete;

 private:
  void run(std::uint64_t bytes_per_second);

  std::mutex mutex_;
  std::condition_variable condition_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace plimsoll
