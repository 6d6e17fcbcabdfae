// Wakes up when tasks of this process's cgroup stall for memory (PSI triggers, the kernel's
// Documentation/accounting/psi.rst), so that the governor need not wait for its next sample.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>

#include "engine/base/result.h"

namespace plimsoll {

class PressureTrigger {
 public:
  // A trigger on the group's own memory.pressure: `stall` of waiting by some task within `window`.
  // Errors: unsupported, where there is no group with PSI, or the kernel takes no trigger: then
  // what is left is to read it.
  static Result<PressureTrigger> open(std::chrono::microseconds stall,
                                      std::chrono::microseconds window,
                                      const std::filesystem::path& root = "/");
  PressureTrigger(PressureTrigger&& other) noexcept;
  PressureTrigger& operator=(PressureTrigger&& other) noexcept;
  ~PressureTrigger();

  int descriptor() const { return descriptor_; }  // POLLPRI: it fired; POLLERR: the group is gone

 private:
  explicit PressureTrigger(int descriptor) : descriptor_(descriptor) {}
  int descriptor_ = -1;
};

}  // namespace plimsoll
