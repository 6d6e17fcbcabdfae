#include "actors/fault_hooks.h"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

namespace {

constexpr int leaks_per_second = 10;

}  // namespace

Result<FaultHooks> parse_fault_hooks(const char* governor, const char* leak) {
  FaultHooks hooks;
  if (governor != nullptr) {
    const std::string_view text = governor;
    if (text != "on" && text != "off") {
      return fail(ErrorCode::invalid_argument,
                  "PLIMSOLL_FAULT_GOVERNOR is 'on' or 'off', not '" + std::string(text) + "'");
    }
    hooks.governor = text == "on";
  }
  if (leak != nullptr) {
    const char* end = leak + std::strlen(leak);
    const auto [rest, error] = std::from_chars(leak, end, hooks.leak_bytes_per_second);
    if (error != std::errc{} || rest != end) {
      return fail(
          ErrorCode::invalid_argument,
          "PLIMSOLL_FAULT_LEAK is a number of bytes per second, not '" + std::string(leak) + "'");
    }
  }
  return hooks;
}

Result<FaultHooks> read_fault_hooks() {
  auto hooks =
      parse_fault_hooks(std::getenv("PLIMSOLL_FAULT_GOVERNOR"), std::getenv("PLIMSOLL_FAULT_LEAK"));
  if (hooks && *hooks != FaultHooks{}) {
    spdlog::error("event=fire_drill governor={} leak_bytes_per_second={}",
                  hooks->governor ? "on" : "off", hooks->leak_bytes_per_second);
  }
  return hooks;
}

Leak::Leak(std::uint64_t bytes_per_second) {
  thread_ = std::thread([this, bytes_per_second] { run(bytes_per_second); });
  pthread_setname_np(thread_.native_handle(), "leak");
}

Leak::~Leak() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  condition_.notify_one();
  thread_.join();
}

void Leak::run(std::uint64_t bytes_per_second) {
  std::vector<std::vector<char>> leaked;
  std::unique_lock lock(mutex_);
  while (!condition_.wait_for(lock, std::chrono::milliseconds(1000 / leaks_per_second),
                              [this] { return stopping_; })) {
    leaked.emplace_back(bytes_per_second / leaks_per_second, '\1');
  }
}

}  // namespace plimsoll
