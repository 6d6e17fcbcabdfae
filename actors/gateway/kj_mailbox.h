// Work for a KJ event loop from other threads: post() anywhere, run() on the loop.
#pragma once

#include <kj/async.h>

#include <deque>
#include <functional>
#include <mutex>

namespace plimsoll {

class KjMailbox {
 public:
  // Never blocks for long. Work posted after close() is dropped.
  void post(std::function<void()> work) {
    kj::Own<kj::CrossThreadPromiseFulfiller<void>> waker;
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      queue_.push_back(std::move(work));
      waker = kj::mv(waker_);
    }
    if (waker.get() != nullptr) waker->fulfill();
  }

  // The loop ends: drops what waits, which may hold on to the mailbox itself.
  void close() {
    std::deque<std::function<void()>> dropped;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(queue_);
  }

  // Runs what is posted, in order, for as long as the promise is held.
  kj::Promise<void> run() {
    std::deque<std::function<void()>> batch;
    kj::Promise<void> next = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (queue_.empty()) {
        auto wake = kj::newPromiseAndCrossThreadFulfiller<void>();
        waker_ = kj::mv(wake.fulfiller);
        next = kj::mv(wake.promise);
      } else {
        batch.swap(queue_);
        next = kj::READY_NOW;
      }
    }
    for (auto& work : batch) work();
    return next.then([this] { return run(); });
  }

 private:
  std::mutex mutex_;
  std::deque<std::function<void()>> queue_;
  bool closed_ = false;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> waker_;
};

}  // namespace plimsoll
