// How long a thread may run before another one that wants the processor gets it. Threads that pass
// requests and tokens on run for microseconds, and often; threads that compute run for as long as
// they are let. Where both want all processors, each hop of a message waits for a slice to end,
// unless its thread has a shorter one: then it goes first (EEVDF, Stoica and Abdel-Wahab 1995;
// Linux from 6.12 on takes a thread's own slice, see sched_setattr(2)). Shares stay as they are.
#pragma once

namespace plimsoll {

// Of the calling thread, and of those that it starts. Older kernels keep the usual slice.
void set_short_slice();
void set_usual_slice();

}  // namespace plimsoll
