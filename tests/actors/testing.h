// What the actors' tests run on: an engine that says the prompt again, and a listener that keeps
// what it hears.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "actors/frontend.h"
#include "bench/pretend/byte_tokenizer.h"
#include "engine/loop/engine.h"

namespace plimsoll::testing {

using pretend::byte_model_text;
using pretend::ByteTokenizer;

// Generates its prompt over and over, a token a step for each sequence; where stop tokens are
// given, it stops after the first time.
class EchoEngine final : public Engine {
 public:
  explicit EchoEngine(EngineSink sink, std::chrono::microseconds step = {})
      : sink_(std::move(sink)), step_(step), thread_([this] { loop(); }) {}
  ~EchoEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  Result<void> submit(SequenceRequest request) override {
    const std::lock_guard lock(mutex_);
    if (deadline_) return fail(ErrorCode::unavailable, "draining");
    requests_.push_back(request);
    sequences_.push_back({std::move(request), false});
    auto& s = sequences_.back();
    s.generated = s.request.resumed.size();
    wake_.notify_all();
    return {};
  }
  void cancel(RequestId id) override {
    ++cancels;
    if (deaf) return;
    const std::lock_guard lock(mutex_);
    for (auto& s : sequences_) s.cancelled = s.cancelled || s.request.id == id;
    wake_.notify_all();
  }
  void add_credit(RequestId id, std::uint32_t tokens) override {
    const std::lock_guard lock(mutex_);
    for (auto& s : sequences_) {
      if (s.request.id == id) s.request.credit += tokens;
    }
    wake_.notify_all();
  }
  void set_pressure(PressureOrder order) override { pressure = order.level; }
  std::future<void> forget(std::optional<TenantId> tenant) override {
    const std::lock_guard lock(mutex_);
    forgotten_.push_back(tenant ? tenant->get() : "(all)");
    std::promise<void> done;
    auto result = done.get_future();
    if (forgets) {
      done.set_value();
    } else {
      forgets_.push_back(std::move(done));
    }
    return result;
  }
  void drain(std::chrono::steady_clock::time_point deadline) override {
    const std::lock_guard lock(mutex_);
    deadline_ = deadline;
    wake_.notify_all();
  }
  bool idle() const override {
    const std::lock_guard lock(mutex_);
    return sequences_.empty();
  }
  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats stats;
    stats.running = static_cast<std::uint32_t>(sequences_.size());
    return stats;
  }
  const ModelInfo& model() const override { return info_; }

  std::vector<SequenceRequest> requests() const {  // all that were submitted
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  std::vector<std::string> forgotten() const {  // tenants
    const std::lock_guard lock(mutex_);
    return forgotten_;
  }
  void have_forgotten() {  // what it was asked to, while `forgets` was not set
    const std::lock_guard lock(mutex_);
    for (auto& each : forgets_) each.set_value();
    forgets_.clear();
  }
  std::atomic<bool> forgets{true};  // at once
  std::atomic<bool> hold{false};    // no step while set
  std::atomic<bool> deaf{false};    // cancellations are not heard
  std::atomic<int> cancels{0};
  std::atomic<PressureLevel> pressure{PressureLevel::green};

 private:
  struct Sequence {
    SequenceRequest request;
    bool cancelled = false;
    std::size_t generated = 0;
    bool scored = false;
  };

  void loop() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      wake_.wait_for(lock, std::max(step_, std::chrono::microseconds(200)));
      std::vector<SequenceEvent> events;
      for (auto it = sequences_.begin(); it != sequences_.end();) {
        auto event = step(*it);
        const bool ended = event && event->finish;
        if (event) events.push_back(std::move(*event));
        it = ended ? sequences_.erase(it) : std::next(it);
      }
      if (!events.empty()) sink_(std::move(events));
      if (!sequences_.empty() && step_.count() == 0) wake_.notify_all();
    }
  }

  std::optional<SequenceEvent> step(Sequence& s) {
    SequenceEvent event;
    event.id = s.request.id;
    const auto now = std::chrono::steady_clock::now();
    const auto fill = [&](FinishReason reason) {
      event.finish = reason;
      event.usage.prompt_tokens = static_cast<std::uint32_t>(s.request.prompt.size());
      event.usage.generated_tokens = static_cast<std::uint32_t>(s.generated);
    };
    const auto end = [&](Error error) {
      fill(FinishReason::error);
      event.error = std::move(error);
      return event;
    };
    if (s.cancelled) {
      fill(FinishReason::cancelled);
      return event;
    }
    if (deadline_ && now >= *deadline_) return end({ErrorCode::unavailable, "drained"});
    if (s.request.deadline && now >= *s.request.deadline) {
      return end({ErrorCode::deadline_exceeded, "too late"});
    }
    if (hold) return std::nullopt;
    const auto& prompt = s.request.prompt;
    if (s.request.prompt_logprobs && !s.scored) {
      for (const TokenId id : prompt) event.prompt.push_back({id, -0.5F, {}});
      s.scored = true;
    }
    const bool stops = !s.request.stop_tokens.empty();
    if (stops && s.generated == prompt.size() && s.generated < s.request.max_new_tokens) {
      fill(FinishReason::stop);
      return event;
    }
    if (s.generated < s.request.max_new_tokens) {
      if (s.request.credit == 0) return std::nullopt;
      --s.request.credit;
      event.tokens.push_back({prompt[s.generated % prompt.size()], -0.25F, {}});
      ++s.generated;
    }
    if (stops && s.generated == prompt.size()) fill(FinishReason::stop);
    if (s.generated == s.request.max_new_tokens) fill(FinishReason::length);
    return event;
  }

  EngineSink sink_;
  const std::chrono::microseconds step_;
  ModelInfo info_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Sequence> sequences_;
  std::vector<SequenceRequest> requests_;
  std::vector<std::string> forgotten_;
  std::vector<std::promise<void>> forgets_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  bool stop_ = false;
  std::thread thread_;
};

// Keeps what a request answered; wait() for its end.
class Listener final : public GenerationListener {
 public:
  void on_delta(GenerationDelta&& delta) override {
    const std::lock_guard lock(mutex);
    EXPECT_FALSE(ended) << "nothing follows the end";
    if (delta.choice >= text.size()) text.resize(delta.choice + 1);
    if (delta.is_prompt) {
      prompt = delta.text;
      prompt_tokens = delta.tokens;
    } else {
      text[delta.choice] += delta.text;
      for (auto& token : delta.tokens) tokens.push_back(std::move(token));
    }
    received += delta.token_count;
    if (consume && stream) stream->consumed(delta.token_count);
    changed.notify_all();
  }
  void on_choice_end(std::uint32_t choice, FinishReason reason) override {
    const std::lock_guard lock(mutex);
    EXPECT_FALSE(ended);
    reasons.emplace_back(choice, reason);
  }
  void on_end(const GenerationUsage& u, std::optional<Error> e) override {
    const std::lock_guard lock(mutex);
    EXPECT_FALSE(ended) << "one end";
    usage = u;
    error = std::move(e);
    ended = true;
    changed.notify_all();
  }

  bool wait(std::chrono::milliseconds time = std::chrono::seconds(20)) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, time, [this] { return ended; });
  }
  bool wait_for_tokens(std::uint32_t count,
                       std::chrono::milliseconds time = std::chrono::seconds(20)) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, time, [&] { return received >= count; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<GenerationStream> stream;
  bool consume = false;
  std::vector<std::string> text;
  std::string prompt;
  std::vector<TokenText> tokens, prompt_tokens;
  std::vector<std::pair<std::uint32_t, FinishReason>> reasons;
  std::uint32_t received = 0;
  GenerationUsage usage;
  std::optional<Error> error;
  bool ended = false;
};

}  // namespace plimsoll::testing
