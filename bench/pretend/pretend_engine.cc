#include "bench/pretend/pretend_engine.h"

#include <pthread.h>

#include <algorithm>
#include <ctime>

namespace plimsoll::pretend {

namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15U ^ (b + 0xD1B54A32D192ED03U);
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93U;
  x ^= x >> 29;
  return x;
}

bool later(const auto& a, const auto& b) { return a.time > b.time; }

class PretendEngine final : public Engine {
 public:
  PretendEngine(Options options, Ledger& ledger, EngineSink sink, std::shared_ptr<Clock> clock)
      : options_(std::move(options)),
        sink_(std::move(sink)),
        clock_(clock ? std::move(clock) : std::make_shared<Clock>()),
        kv_(ledger.account(Component::kv, "pretend@0", shared_tenant)),
        next_(std::chrono::steady_clock::now() + options_.phase) {
    info_.kind = ModelKind::causal;
    info_.architecture = info_.name = "pretend";
    info_.vocab = 256;
    info_.context_tokens = options_.context_tokens;
  }

  ~PretendEngine() override {
    clock_->leave(this);
    std::vector<SequenceEvent> events;
    for (auto& s : running_) events.push_back(end(s, FinishReason::cancelled));
    for (auto& s : waiting_) events.push_back(end(s, FinishReason::cancelled));
    if (!events.empty()) sink_(std::move(events));
  }

  Result<void> submit(SequenceRequest request) override {
    const auto generated = static_cast<std::uint32_t>(request.resumed.size());
    const std::uint64_t tokens = request.prompt.size() + request.max_new_tokens;
    const std::uint64_t bytes = tokens * options_.kv_token_bytes;
    if (request.prompt.empty()) return fail(ErrorCode::invalid_argument, "the prompt is empty");
    if (request.max_new_tokens == 0) {
      return fail(ErrorCode::invalid_argument, "a pretended model scores no prompts");
    }
    if (tokens > options_.context_tokens || bytes > options_.kv_bytes) {
      return fail(ErrorCode::invalid_argument,
                  "the prompt and what follows it do not fit into the context");
    }
    const std::lock_guard lock(mutex_);
    if (drain_) return fail(ErrorCode::unavailable, "the node is draining");
    if (waiting_.size() >= options_.queue_length) {
      return fail(Error(ErrorCode::resource_exhausted, "the queue is full").retry_after(100));
    }
    const auto hash = prompt_hash(request.prompt);
    waiting_.push_back({std::move(request), hash, generated, false, {}});
    waiting_.back().kv_bytes = bytes;
    by_id_[waiting_.back().request.id] = &waiting_.back();
    wake();
    return {};
  }
  void cancel(RequestId id) override {
    const std::lock_guard lock(mutex_);
    const auto it = by_id_.find(id);
    if (it == by_id_.end()) return;
    it->second->cancelled = true;
    wake();
  }
  void add_credit(RequestId id, std::uint32_t tokens) override {
    const std::lock_guard lock(mutex_);
    const auto it = by_id_.find(id);
    if (it == by_id_.end()) return;
    auto& credit = it->second->request.credit;
    credit += std::min(tokens, ~0U - credit);
    wake();
  }
  void set_pressure(PressureOrder) override {}
  std::future<void> forget(std::optional<TenantId>) override {
    std::promise<void> done;  // there is no tier
    done.set_value();
    return done.get_future();
  }
  void drain(std::chrono::steady_clock::time_point deadline) override {
    const std::lock_guard lock(mutex_);
    drain_ = deadline;
    wake();
  }
  bool idle() const override {
    const std::lock_guard lock(mutex_);
    return by_id_.empty();
  }
  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.waiting = static_cast<std::uint32_t>(waiting_.size());
    stats.running = static_cast<std::uint32_t>(running_.size());
    stats.kv_blocks_total = blocks(options_.kv_bytes);
    stats.kv_blocks_used = blocks(kv_used_);
    return stats;
  }
  const ModelInfo& model() const override { return info_; }

 private:
  struct Sequence {
    SequenceRequest request;
    std::uint64_t hash;
    std::uint32_t generated;  // those it was resumed with, too
    bool cancelled;
    Charge kv;  // while it runs
    std::uint64_t kv_bytes = 0;
  };

  std::uint32_t blocks(std::uint64_t bytes) const {
    constexpr std::uint32_t block_tokens = 16;
    return static_cast<std::uint32_t>(
        bytes / std::max<std::uint64_t>(1, options_.kv_token_bytes * block_tokens));
  }

  // With the lock. Whether there was something to do or not, the steps keep their rhythm.
  void wake() {
    if (ticking_ || by_id_.empty()) return;
    const auto behind = std::chrono::steady_clock::now() - next_;
    if (behind.count() > 0 && options_.step.count() > 0) {
      next_ += (behind / options_.step + 1) * options_.step;
    }
    schedule();
  }
  void schedule() {
    ticking_ = true;
    clock_->at(next_, this, [this] { tick(); });
  }

  void tick() {
    std::vector<SequenceEvent> events;
    {
      const std::lock_guard lock(mutex_);
      step(events);
      next_ = std::max(next_ + options_.step, std::chrono::steady_clock::now());
      ticking_ = false;
      if (!by_id_.empty()) schedule();
    }
    // Outside of the lock, but on the clock's thread alone: a sequence's events keep their order.
    if (!events.empty()) sink_(std::move(events));
  }

  void step(std::vector<SequenceEvent>& events) {
    const auto now = std::chrono::steady_clock::now();
    ++stats_.steps_total;
    stats_.step_seconds_total += std::chrono::duration<double>(options_.step).count();
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      auto event = ended(*it, now);
      if (!event) {
        ++it;
        continue;
      }
      events.push_back(std::move(*event));
      it = forget(waiting_, it);
    }
    while (!waiting_.empty() && running_.size() < options_.batch &&
           kv_used_ + waiting_.front().kv_bytes <= options_.kv_bytes) {
      running_.splice(running_.end(), waiting_, waiting_.begin());
      auto& s = running_.back();
      s.kv = Charge(kv_, s.kv_bytes);
      kv_used_ += s.kv_bytes;
      stats_.prompt_tokens_total += s.request.prompt.size();
    }
    events.reserve(events.size() + running_.size());
    for (auto it = running_.begin(); it != running_.end();) {
      auto event = ended(*it, now);
      if (!event) event = generate(*it);
      const bool gone = event && event->finish;
      if (event) events.push_back(std::move(*event));
      if (gone) kv_used_ -= it->kv_bytes;
      it = gone ? forget(running_, it) : std::next(it);
    }
  }

  std::list<Sequence>::iterator forget(std::list<Sequence>& list,
                                       std::list<Sequence>::iterator it) {
    by_id_.erase(it->request.id);
    return list.erase(it);
  }

  // The last event of a sequence that is to end before it generates more.
  std::optional<SequenceEvent> ended(Sequence& s, std::chrono::steady_clock::time_point now) {
    const auto error = [&](ErrorCode code, const char* message) {
      auto event = end(s, FinishReason::error);
      event.error = Error(code, message).retry_after(100);
      return event;
    };
    if (s.cancelled) {
      ++stats_.cancelled_total;
      return end(s, FinishReason::cancelled);
    }
    if (drain_ && now >= *drain_) return error(ErrorCode::unavailable, "the node has drained");
    if (s.request.deadline && now >= *s.request.deadline) {
      return error(ErrorCode::deadline_exceeded, "the request's deadline passed");
    }
    return std::nullopt;
  }

  static SequenceEvent end(const Sequence& s, FinishReason reason) {
    SequenceEvent event;
    event.id = s.request.id;
    event.finish = reason;
    event.usage.prompt_tokens = static_cast<std::uint32_t>(s.request.prompt.size());
    event.usage.generated_tokens = s.generated;
    return event;
  }

  std::optional<SequenceEvent> generate(Sequence& s) {
    const auto left = s.request.max_new_tokens - std::min(s.generated, s.request.max_new_tokens);
    const auto count = std::min({options_.step_tokens, s.request.credit, left});
    if (count == 0 && left > 0) return std::nullopt;  // out of credit
    SequenceEvent event;
    if (count == left) {
      s.generated += count;
      event = end(s, FinishReason::length);
      s.generated -= count;
      ++stats_.finished_total;
    }
    event.id = s.request.id;
    event.tokens.reserve(count);
    if (options_.on_emit && count > 0) options_.on_emit(s.request, s.generated, count);
    for (std::uint32_t i = 0; i < count; ++i) {
      event.tokens.push_back({token_at(s.hash, s.request.sampling.seed, s.generated++), 0.0F, {}});
    }
    if (s.request.credit != ~0U) s.request.credit -= count;
    stats_.generated_tokens_total += count;
    return event;
  }

  const Options options_;
  EngineSink sink_;
  const std::shared_ptr<Clock> clock_;
  Account& kv_;
  ModelInfo info_;
  mutable std::mutex mutex_;
  std::list<Sequence> waiting_, running_;
  std::unordered_map<RequestId, Sequence*> by_id_;
  std::uint64_t kv_used_ = 0;
  std::optional<std::chrono::steady_clock::time_point> drain_;
  std::chrono::steady_clock::time_point next_;
  bool ticking_ = false;
  EngineStats stats_;
};

}  // namespace

Clock::Clock() : thread_([this] { run(); }) {}

Clock::~Clock() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Clock::at(Time time, const void* owner, std::function<void()> step) {
  const std::lock_guard lock(mutex_);
  entries_.push_back({time, owner, std::move(step)});
  std::ranges::push_heap(entries_, later<Entry, Entry>);
  if (std::this_thread::get_id() != thread_.get_id()) changed_.notify_all();
}

void Clock::leave(const void* owner) {
  std::unique_lock lock(mutex_);
  // A step that runs now may ask for the next one.
  changed_.wait(lock, [&] { return running_ != owner; });
  std::erase_if(entries_, [&](const Entry& entry) { return entry.owner == owner; });
  std::ranges::make_heap(entries_, later<Entry, Entry>);
}

double Clock::cpu_seconds() {
  clockid_t id{};
  timespec time{};
  pthread_getcpuclockid(thread_.native_handle(), &id);
  clock_gettime(id, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

void Clock::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (entries_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto time = entries_.front().time;
    if (time > std::chrono::steady_clock::now()) {
      changed_.wait_until(lock, time);
      continue;
    }
    std::ranges::pop_heap(entries_, later<Entry, Entry>);
    const auto entry = std::move(entries_.back());
    entries_.pop_back();
    running_ = entry.owner;
    lock.unlock();
    entry.step();
    lock.lock();
    running_ = nullptr;
    changed_.notify_all();
  }
}

std::uint64_t prompt_hash(std::span<const TokenId> prompt) {
  std::uint64_t hash = prompt.size();
  for (const TokenId id : prompt) hash = mix(hash, static_cast<std::uint64_t>(id));
  return hash;
}

TokenId token_at(std::uint64_t prompt_hash, std::uint64_t seed, std::uint64_t position) {
  return 'a' + static_cast<TokenId>(mix(mix(prompt_hash, seed), position) % 26);
}

std::unique_ptr<Engine> start_engine(Options options, Ledger& ledger, EngineSink sink,
                                     std::shared_ptr<Clock> clock) {
  return std::make_unique<PretendEngine>(std::move(options), ledger, std::move(sink),
                                         std::move(clock));
}

}  // namespace plimsoll::pretend
