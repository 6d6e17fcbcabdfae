// A thread for calls that block, so that an event loop need not: one call after the other, from a
// bounded queue. Starts with the first call.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace plimsoll {

class CallThread {
 public:
  explicit CallThread(std::size_t capacity) : capacity_(capacity) {}
  ~CallThread() { stop(); }

  // False if the queue is full or the thread was stopped. Calls do not throw.
  bool post(std::function<void()> call) {
    const std::lock_guard lock(mutex_);
    if (stopped_ || queue_.size() >= capacity_) return false;
    queue_.push_back(std::move(call));
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    changed_.notify_one();
    return true;
  }

  // Drops what waits, and waits for the call in progress.
  void stop() {
    std::deque<std::function<void()>> dropped;  // destroyed after the lock is gone
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      dropped.swap(queue_);
      changed_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopped_ || !queue_.empty(); });
      if (stopped_) return;
      auto call = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      call();
      call = nullptr;
      lock.lock();
    }
  }

  const std::size_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace plimsoll
