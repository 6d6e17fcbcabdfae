#include "engine/memory/pressure_trigger.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "engine/memory/kernel_files.h"

namespace plimsoll {

Result<PressureTrigger> PressureTrigger::open(std::chrono::microseconds stall,
                                              std::chrono::microseconds window,
                                              const std::filesystem::path& root) {
  const auto group = find_cgroup(root, CgroupVersion::v2);
  std::error_code missing;
  // Every group but the host's root has a cgroup.type; the root's stalls are others' too.
  if (!group || !std::filesystem::exists(group->folder / "cgroup.type", missing)) {
    return fail(ErrorCode::unsupported, "this process is in no cgroup v2 group of its own");
  }
  const auto path = group->folder / "memory.pressure";
  PressureTrigger trigger(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  const std::string wanted =
      "some " + std::to_string(stall.count()) + " " + std::to_string(window.count());
  // The terminating zero belongs to it.
  if (trigger.descriptor_ < 0 ||
      ::write(trigger.descriptor_, wanted.c_str(), wanted.size() + 1) < 0) {
    return fail(ErrorCode::unsupported,
                "no pressure trigger on " + path.string() + ": " + std::strerror(errno));
  }
  return trigger;
}

PressureTrigger::PressureTrigger(PressureTrigger&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}
PressureTrigger& PressureTrigger::operator=(PressureTrigger&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}
PressureTrigger::~PressureTrigger() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace plimsoll
