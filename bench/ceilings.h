// What the machine at hand can do at most.
#pragma once

#include "engine/kernels/cpu/isa.h"
#include "engine/kernels/cpu/thread_pool.h"

namespace plimsoll {

struct Ceilings {
  double read_bytes = 0;  // a second, from memory, all threads together
  double int8_macs = 0;   // multiply-adds a second, of 8-bit dots in registers
};

// Takes about half a second.
Ceilings measure_ceilings(int threads);

// Runs 8-bit dots in registers on all threads, and returns how many multiply-adds that were: 0, and
// nothing was run, where the instruction set has no product for them. The machine must have `isa`.
double run_int8_dots(ThreadPool& pool, Isa isa);

}  // namespace plimsoll
