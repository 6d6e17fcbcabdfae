// A call into the router actor from a thread that may wait for it.
#pragma once

#include <chrono>
#include <functional>

#include "actors/messages.h"
#include "engine/base/result.h"

namespace plimsoll {

using RouterCall = std::function<void(cluster::Router&, cluster::Time now, cluster::Actions&)>;
// Returns when `run` has run. Errors: unavailable, if the router does not get to it in time; then
// it never runs.
Result<void> call_router(const RouterActor& router, RouterCall run,
                         std::chrono::milliseconds patience = std::chrono::seconds(5));

}  // namespace plimsoll
