#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

namespace plimsoll::cli {

namespace {

// A signal handler may only write; a thread does the rest.
std::atomic<int> signal_pipe{-1};
struct sigaction previous_action;

void on_interrupt(int) {
  const char byte = 'i';
  [[maybe_unused]] const auto n = write(signal_pipe.load(), &byte, 1);
}

}  // namespace

Interrupt::Interrupt() {
  if (pipe(pipe_) != 0) throw std::runtime_error("no file descriptors left");
  watcher_ = std::thread([this] {
    char byte = 0;
    while (read(pipe_[0], &byte, 1) == 1 && byte == 'i') source_.request_stop();
  });
  signal_pipe = pipe_[1];
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, &previous_action);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &previous_action, nullptr);
  const char byte = 'q';
  [[maybe_unused]] const auto n = write(pipe_[1], &byte, 1);
  watcher_.join();
  close(pipe_[0]);
  close(pipe_[1]);
}

}  // namespace plimsoll::cli
