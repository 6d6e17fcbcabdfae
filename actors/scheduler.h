// How the threads of an actor system share its work.
#pragma once

#include <caf/all.hpp>

namespace plimsoll {

// One queue for all threads, oldest first. A thread that has nothing to do sleeps until it is
// called; what an actor makes ready while it runs goes to the queue in one piece. CAF's own
// schedulers either poll (work stealing) or take a lock and wake a thread for every message (work
// sharing), which cost more than the messages themselves: a step of an engine becomes a message
// for each of its streams.
void use_call_scheduler(caf::actor_system_config& config);

}  // namespace plimsoll
