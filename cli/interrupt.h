// Ctrl-C as a stop token: while one lives, SIGINT stops the running answer instead of the program.
#pragma once

#include <stop_token>
#include <thread>

namespace plimsoll::cli {

class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  std::stop_token token() const { return source_.get_token(); }
  bool happened() const { return source_.stop_requested(); }

 private:
  std::stop_source source_;
  std::thread watcher_;
  int pipe_[2] = {-1, -1};
};

}  // namespace plimsoll::cli
