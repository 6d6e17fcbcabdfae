#include "actors/in_router.h"

#include <atomic>
#include <future>
#include <memory>
#include <utility>

namespace plimsoll {

Result<void> in_router(
    const RouterActor& router,
    std::function<void(cluster::Router&, cluster::Time now, cluster::Actions&)> run,
    std::chrono::milliseconds patience) {
  // Only the message owns the promise, so that a router that has ended is noticed at once.
  auto done = std::make_shared<std::promise<void>>();
  auto answer = done->get_future();
  const auto abandoned = std::make_shared<std::atomic<bool>>(false);
  InRouter call{[abandoned, done = std::move(done), run = std::move(run)](auto& core, auto now,
                                                                          auto& actions) {
    if (*abandoned) return;
    run(core, now, actions);
    done->set_value();
  }};
  caf::anon_send(router, std::move(call));
  if (answer.wait_for(patience) == std::future_status::ready) {
    try {
      answer.get();
      return {};
    } catch (const std::future_error&) {
      // The router has ended.
    }
  }
  *abandoned = true;
  return fail(Error(ErrorCode::unavailable, "the router does not answer").retry_after(1000));
}

}  // namespace plimsoll
