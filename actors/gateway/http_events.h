// What the actors say to a connection: pushed from any thread, taken by the connection's strand.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "actors/frontend.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

struct ChoiceEnd {
  std::uint32_t choice;
  FinishReason reason;
};
struct GenerationEnd {
  GenerationUsage usage;
  std::optional<Error> error;
};

struct AnswerEvent {
  std::uint32_t request = 0;  // which of the call's requests it answers
  std::variant<GenerationDelta, ChoiceEnd, GenerationEnd, Result<EmbedResponse>> what;
  std::optional<RateLimits> limits = {};  // with the first event, if the cluster told them
};

// The queue of one call. It is bounded by the streams' windows of credit, because only what was
// taken and written is given back. It outlives its connection where an actor still holds it: after
// close() it touches nothing of the gateway.
class AnswerEvents {
 public:
  // `wake` is called from any thread after a push into the empty queue, and must not block.
  AnswerEvents(std::function<void()> wake, Account& account)
      : wake_(std::move(wake)), charge_(account, 0) {}

  void push(AnswerEvent event) {
    const std::lock_guard lock(mutex_);
    if (!wake_) return;
    charge_.resize(charge_.bytes() + bytes_of(event));
    events_.push_back(std::move(event));
    if (events_.size() == 1) wake_();
  }

  std::vector<AnswerEvent> take() {
    const std::lock_guard lock(mutex_);
    charge_.resize(0);
    return std::exchange(events_, {});
  }

  bool empty() const {
    const std::lock_guard lock(mutex_);
    return events_.empty();
  }

  void close() {
    const std::lock_guard lock(mutex_);
    wake_ = nullptr;
    events_.clear();
    charge_.reset();
  }

 private:
  static std::uint64_t bytes_of(const AnswerEvent& event) {
    std::uint64_t sum = sizeof(AnswerEvent);
    if (const auto* delta = std::get_if<GenerationDelta>(&event.what)) {
      sum += delta->text.size() + delta->tokens.size() * sizeof(TokenText);
      for (const auto& token : delta->tokens) sum += token.top.size() * sizeof(token.top[0]);
    } else if (const auto* embed = std::get_if<Result<EmbedResponse>>(&event.what)) {
      if (*embed && !(*embed)->embeddings.empty()) {
        sum += (*embed)->embeddings.size() * (*embed)->embeddings[0].size() * sizeof(float);
      }
    }
    return sum;
  }

  mutable std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<AnswerEvent> events_;
  Charge charge_;
};

}  // namespace plimsoll
