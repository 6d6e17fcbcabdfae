#include "actors/scheduler.h"

#include <algorithm>
#include <atomic>
#include <caf/policy/unprofiled.hpp>
#include <caf/scheduler/coordinator.hpp>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <vector>

namespace plimsoll {
namespace {

using caf::resumable;

// Ends the loop of a worker that has run its last job.
class Stopped final : public resumable {
 public:
  resume_result resume(caf::execution_unit*, std::size_t) override {
    return shutdown_execution_unit;
  }
  void intrusive_ptr_add_ref_impl() override {}
  void intrusive_ptr_release_impl() override {}
};

class Queue {
 public:
  // Takes all of `jobs`, and calls as many sleepers as there is work for.
  void add(std::vector<resumable*>& jobs) {
    std::unique_lock lock(mutex_);
    ready_.insert(ready_.end(), jobs.begin(), jobs.end());
    jobs.clear();
    call_sleepers(lock);
  }
  void add(resumable* job) {
    std::unique_lock lock(mutex_);
    ready_.push_back(job);
    call_sleepers(lock);
  }
  // The oldest job, after `jobs` were added; waits for one.
  resumable* exchange(std::vector<resumable*>& jobs) {
    std::unique_lock lock(mutex_);
    ready_.insert(ready_.end(), jobs.begin(), jobs.end());
    jobs.clear();
    while (ready_.empty()) {
      ++sleeping_;
      called_.wait(lock, [&] { return calls_ > 0; });
      --calls_;
    }
    auto* const job = ready_.front();
    ready_.pop_front();
    call_sleepers(lock);
    return job;
  }
  bool has_sleepers() const { return sleeping_.load(std::memory_order_relaxed) > 0; }
  template <class Function>
  void take_all(Function function) {
    for (; !ready_.empty(); ready_.pop_front()) function(ready_.front());
  }

 private:
  void call_sleepers(std::unique_lock<std::mutex>& lock) {
    const std::size_t count = std::min<std::size_t>(ready_.size(), sleeping_);
    sleeping_ -= count;
    calls_ += count;
    lock.unlock();
    for (std::size_t i = 0; i < count; ++i) called_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable called_;
  std::deque<resumable*> ready_;
  std::atomic<std::size_t> sleeping_{0};  // that nobody has called; written with the lock
  std::size_t calls_ = 0;                 // that no sleeper has heard yet
};

class CallPolicy final : public caf::policy::unprofiled {
 public:
  struct coordinator_data {
    explicit coordinator_data(caf::scheduler::abstract_coordinator*) {}
    Queue queue;
  };
  struct worker_data {
    explicit worker_data(caf::scheduler::abstract_coordinator*) {}
    std::vector<resumable*> made;  // by the job that runs now
  };

  template <class Coordinator>
  void central_enqueue(Coordinator* self, resumable* job) {
    d(self).queue.add(job);
  }
  template <class Worker>
  void external_enqueue(Worker* self, resumable* job) {
    d(self->parent()).queue.add(job);
  }
  // While every thread is busy, nobody waits for it.
  template <class Worker>
  void internal_enqueue(Worker* self, resumable* job) {
    auto& queue = d(self->parent()).queue;
    auto& made = d(self).made;
    made.push_back(job);
    if (made.size() >= most_made || queue.has_sleepers()) queue.add(made);
  }
  template <class Worker>
  void resume_job_later(Worker* self, resumable* job) {
    d(self).made.push_back(job);
  }

  // Runs every job but the last here: the worker's own loop looks up the actor's class and sets a
  // logger's state each time, for a log that is compiled out.
  template <class Worker>
  resumable* dequeue(Worker* self) {
    auto& queue = d(self->parent()).queue;
    auto& made = d(self).made;
    for (;;) {
      auto* const job = queue.exchange(made);
      switch (job->resume(self, self->max_throughput())) {
        case resumable::resume_later: made.push_back(job); break;
        case resumable::done:
        case resumable::awaiting_message: caf::intrusive_ptr_release(job); break;
        case resumable::shutdown_execution_unit: queue.add(made); return &stopped_;
      }
    }
  }

  template <class Worker, class Function>
  void foreach_resumable(Worker*, Function) {}
  template <class Coordinator, class Function>
  void foreach_central_resumable(Coordinator* self, Function function) {
    d(self).queue.take_all(function);
  }

 private:
  static constexpr std::size_t most_made = 32;
  Stopped stopped_;
};

}  // namespace

void use_call_scheduler(caf::actor_system_config& config) {
  config.load<caf::scheduler::coordinator<CallPolicy>>();
}

}  // namespace plimsoll
