#include "actors/scheduler.h"

#include <caf/policy/unprofiled.hpp>
#include <caf/scheduler/coordinator.hpp>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>

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
  void add(resumable* job) {
    std::unique_lock lock(mutex_);
    ready_.push_back(job);
    if (sleeping_ == 0) return;
    --sleeping_;
    ++calls_;
    lock.unlock();
    called_.notify_one();
  }
  // The oldest job; waits for one.
  resumable* take() {
    std::unique_lock lock(mutex_);
    while (ready_.empty()) {
      ++sleeping_;
      called_.wait(lock, [&] { return calls_ > 0; });
      --calls_;
    }
    auto* const job = ready_.front();
    ready_.pop_front();
    return job;
  }
  template <class Function>
  void take_all(Function function) {
    for (; !ready_.empty(); ready_.pop_front()) function(ready_.front());
  }

 private:
  std::mutex mutex_;
  std::condition_variable called_;
  std::deque<resumable*> ready_;
  std::size_t sleeping_ = 0;  // that nobody has called
  std::size_t calls_ = 0;     // that no sleeper has heard yet
};

class CallPolicy final : public caf::policy::unprofiled {
 public:
  struct coordinator_data {
    explicit coordinator_data(caf::scheduler::abstract_coordinator*) {}
    Queue queue;
  };
  struct worker_data {
    explicit worker_data(caf::scheduler::abstract_coordinator*) {}
  };

  template <class Coordinator>
  void central_enqueue(Coordinator* self, resumable* job) {
    d(self).queue.add(job);
  }
  template <class Worker>
  void external_enqueue(Worker* self, resumable* job) {
    d(self->parent()).queue.add(job);
  }
  template <class Worker>
  void internal_enqueue(Worker* self, resumable* job) {
    d(self->parent()).queue.add(job);
  }
  template <class Worker>
  void resume_job_later(Worker* self, resumable* job) {
    d(self->parent()).queue.add(job);
  }

  // Runs every job but the last here: the worker's own loop looks up the actor's class and sets a
  // logger's state each time, for a log that is compiled out.
  template <class Worker>
  resumable* dequeue(Worker* self) {
    auto& queue = d(self->parent()).queue;
    for (;;) {
      auto* const job = queue.take();
      switch (job->resume(self, self->max_throughput())) {
        case resumable::resume_later: queue.add(job); break;
        case resumable::done:
        case resumable::awaiting_message: caf::intrusive_ptr_release(job); break;
        case resumable::shutdown_execution_unit: return &stopped_;
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
  Stopped stopped_;
};

}  // namespace

void use_call_scheduler(caf::actor_system_config& config) {
  config.load<caf::scheduler::coordinator<CallPolicy>>();
}

}  // namespace plimsoll
