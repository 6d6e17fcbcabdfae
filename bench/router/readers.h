// Who reads the streams of the router's bench: an actor in place of a client's request, or a
// listener behind the frontend.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "actors/frontend.h"
#include "actors/messages.h"
#include "bench/router/tally.h"

namespace plimsoll::router_bench {

struct SinkState {
  std::optional<Reading> reading;
  RouterActor router;
  std::uint32_t quarter = 0;  // of the window: when credit goes back
  std::uint32_t owed = 0;
};

inline StreamSink::behavior_type counting_sink(StreamSink::stateful_pointer<SinkState> self,
                                               const Reading& reading, const RouterActor& router,
                                               std::uint32_t window) {
  self->state.reading = reading;
  self->state.router = router;
  self->state.quarter = std::max(1U, window / 4);
  return {[](const RateLimits&) {},
          [=](StreamEvents& message) {
            auto& state = self->state;
            message.charge.reset();
            for (auto& event : message.events) {
              const auto from = state.reading->position;
              for (const auto& token : event.tokens) state.reading->take(token.id);
              const auto count = state.reading->position - from;
              if (count > 0) state.reading->tally->took(state.reading->stream, from, count);
              if (event.finish) {
                state.reading->end(event.finish == FinishReason::length);
                return self->quit();
              }
              if ((state.owed += count) >= state.quarter) {
                self->send(state.router, AddCredit{event.id, std::exchange(state.owed, 0)});
              }
            }
          }};
}

class CountingListener final : public GenerationListener {
 public:
  explicit CountingListener(const Reading& reading) : reading_(reading) {}
  void hold(std::shared_ptr<GenerationStream> stream) {
    const std::lock_guard lock(mutex_);
    if (!ended_) stream_ = std::move(stream);
  }
  void cancel() {
    const std::lock_guard lock(mutex_);
    if (stream_) stream_->cancel();
  }
  void on_delta(GenerationDelta&& delta) override {
    const auto from = reading_.position;
    for (const char c : delta.text) reading_.take(static_cast<unsigned char>(c));
    reading_.tally->took(reading_.stream, from, reading_.position - from);
    const std::lock_guard lock(mutex_);
    if (stream_) stream_->consumed(delta.token_count);
  }
  void on_choice_end(std::uint32_t, FinishReason) override {}
  void on_end(const GenerationUsage&, std::optional<Error> error) override {
    reading_.end(!error);
    const std::lock_guard lock(mutex_);
    ended_ = true;
    stream_ = nullptr;
  }

 private:
  Reading reading_;
  std::mutex mutex_;
  std::shared_ptr<GenerationStream> stream_;
  bool ended_ = false;
};

}  // namespace plimsoll::router_bench
