#include "actors/router_call.h"

#include <atomic>
#include <future>
#include <memory>
#include <utility>

namespace plimsoll {

Result<void> call_router(const RouterActor& router, RouterCall run,
                         std::chrono::milliseconds patience) {
  enum class State { waiting, running, abandoned };
  const auto state = std::make_shared<std::atomic<State>>(State::waiting);
  const auto take = [state](State next) {
    State expected = State::waiting;
    return state->compare_exchange_strong(expected, next);
  };
  // Only the message owns the promise, so that a router that has ended is noticed at once.
  auto done = std::make_shared<std::promise<void>>();
  auto answer = done->get_future();
  InRouter call{
      [take, done = std::move(done), run = std::move(run)](auto& core, auto now, auto& actions) {
        if (!take(State::running)) return;
        run(core, now, actions);
        done->set_value();
      }};
  caf::anon_send(router, std::move(call));
  const bool in_time = answer.wait_for(patience) == std::future_status::ready;
  if (in_time || !take(State::abandoned)) {  // or it runs just now
    try {
      answer.get();
      return {};
    } catch (const std::future_error&) {
      // The router has ended.
    }
  }
  return fail(Error(ErrorCode::unavailable, "the router does not answer").retry_after(1000));
}

}  // namespace plimsoll
