// How the threads of an actor system share its work.
#pragma once

#include <caf/all.hpp>

namespace plimsoll {

// One queue for all threads, oldest first. A thread that has nothing to do sleeps until it is
// called, and only a sleeping one is called. CAF's own schedulers either poll (work stealing) or
// wake a thread for every message while they hold the queue's lock (work sharing), which costs more
// than the messages themselves: a step of an engine becomes a message for each of its streams.
void use_call_scheduler(caf::actor_system_config& config);

}  // namespace plimsoll
