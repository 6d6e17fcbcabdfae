// Which instruction set the kernels run with. Chosen once from the processor; the environment
// variable PLIMSOLL_ISA=portable|avx2|avx512vnni|avx512bf16 forces a lower one.
#pragma once

#include <string_view>
#include <vector>

namespace plimsoll {

// Ascending. avx512bf16 has what avx512vnni has, and dot products of bfloat16.
enum class Isa { portable, avx2, avx512vnni, avx512bf16 };
std::string_view to_string(Isa isa);

Isa active_isa();
std::vector<Isa> supported_isas();  // on this machine, ascending
// For tests: switches all kernels. `isa` must be in supported_isas(). Not thread-safe.
void force_isa(Isa isa);

}  // namespace plimsoll
