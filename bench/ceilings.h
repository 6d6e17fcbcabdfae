// What the machine at hand can do at most.
#pragma once

namespace plimsoll {

struct Ceilings {
  double read_bytes = 0;  // a second, from memory, all threads together
  double int8_macs = 0;   // multiply-adds a second, of 8-bit dots in registers
};

// Takes about half a second.
Ceilings measure_ceilings(int threads);

}  // namespace plimsoll
