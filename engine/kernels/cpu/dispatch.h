// How a kernel source is compiled once for each instruction set, and called: Highway's dynamic
// dispatch. Included, inside the kernels only, before "hwy/foreach_target.h".
//
// Three targets are built: AVX3 (AVX-512; taken only together with VNNI, see isa.cc), AVX2 and
// SCALAR (the portable twin). Targets between them would cost compile time and no test machine
// would run them.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_AVX3_DL | HWY_SSE4 | HWY_SSSE3)
// The fallback is SCALAR with every compiler; g++ 12 cannot build EMU128.
#define HWY_BROKEN_EMU128 1

#include "engine/kernels/cpu/isa.h"

// Calls HWY_EXPORT'ed `function` for active_isa(), which is set up by the first call.
#define PLIMSOLL_DISPATCH(function) \
  (static_cast<void>(::plimsoll::active_isa()), HWY_DYNAMIC_DISPATCH(function))
