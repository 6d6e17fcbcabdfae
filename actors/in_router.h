// Calls into the router's state machine from threads that may wait.
#pragma once

#include <chrono>
#include <functional>

#include "actors/messages.h"
#include "engine/base/result.h"

namespace plimsoll {

// Runs `run` inside the router's actor and waits for its end. Where the wait ends first, with
// `unavailable`, it may be running at that moment and is not begun later: it owns what it writes
// to.
Result<void> in_router(
    const RouterActor& router,
    std::function<void(cluster::Router&, cluster::Time now, cluster::Actions&)> run,
    std::chrono::milliseconds patience = std::chrono::seconds(5));

}  // namespace plimsoll
