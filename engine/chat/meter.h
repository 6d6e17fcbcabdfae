// The limits of one render, and the exception its parts throw. Nothing here leaves engine/chat:
// ChatTemplate turns it into a Result.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "engine/base/result.h"
#include "engine/chat/chat_template.h"

namespace plimsoll::jinja {

struct TemplateError {
  Error error;
};

// What Jinja2 would refuse too: a wrong type, an undefined value used, raise_exception.
[[noreturn]] void fail_render(std::string message);
// What Jinja2 would do and this interpreter does not.
[[noreturn]] void fail_unsupported(std::string construct);
[[noreturn]] void fail_limit(std::string message);

// Counts what a render has done and holds. Belongs to one thread, outlives every value it charged.
class Meter {
 public:
  explicit Meter(const ChatTemplateLimits& limits) : limits_(limits) {}
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  void step(std::size_t count = 1) {
    if (count > limits_.steps - steps_) fail_limit("the template takes too many steps");
    steps_ += count;
  }
  // For reading or copying that many bytes of text.
  void work(std::size_t bytes) { step(bytes / 256); }

  void take(std::size_t bytes) {
    if (bytes > limits_.memory_bytes - held_bytes_)
      fail_limit("the template needs too much memory");
    held_bytes_ += bytes;
  }
  void give(std::size_t bytes) noexcept { held_bytes_ -= bytes; }

  void check_text(std::size_t bytes) const {
    if (bytes > limits_.output_bytes) fail_limit("the template makes too long a text");
  }
  void check_depth(std::size_t depth) const {
    if (depth > limits_.depth) fail_limit("the template nests too deep");
  }

 private:
  const ChatTemplateLimits limits_;
  std::size_t steps_ = 0;
  std::size_t held_bytes_ = 0;
};

// Bytes held from a meter until destroyed. A literal of the template has none.
class Charge {
 public:
  Charge() = default;
  explicit Charge(Meter& meter) : meter_(&meter) {}
  Charge(Charge&& other) noexcept
      : meter_(std::exchange(other.meter_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&& other) noexcept {
    std::swap(meter_, other.meter_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Charge() {
    if (meter_ != nullptr) meter_->give(bytes_);
  }
  void add(std::size_t bytes) {
    if (meter_ == nullptr) return;
    meter_->take(bytes);
    bytes_ += bytes;
  }

 private:
  Meter* meter_ = nullptr;
  std::size_t bytes_ = 0;
};

// Counts nested calls of the interpreter, which are frames of the thread's stack.
class Nesting {
 public:
  Nesting(Meter& meter, std::size_t& depth) : depth_(depth) {
    meter.check_depth(depth + 1);
    ++depth_;
  }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  std::size_t& depth_;
};

}  // namespace plimsoll::jinja
