#include "cli/scorecard/machine.h"

#include <gtest/gtest.h>

namespace plimsoll::cli::scorecard {
namespace {

TEST(Machine, OfIntelAndArm) {
  const auto intel = machine_of(
      "processor\t: 0\nmodel name\t: A Processor @ 2GHz\nflags\t\t: fpu sse4_2 avx2 avx512f\n"
      "processor\t: 1\nmodel name\t: Another\n",
      "MemTotal:       16384 kB\nMemFree: 1 kB\n");
  EXPECT_EQ(intel.processor, "A Processor @ 2GHz");
  EXPECT_EQ(intel.isa, "avx512f");
  EXPECT_EQ(intel.ram_bytes, 16U << 20);
  const auto arm = machine_of("Features\t: fp asimd evtstrm sve\n", "");
  EXPECT_EQ(arm.isa, "sve");
  EXPECT_EQ(arm.ram_bytes, 0U);
  EXPECT_EQ(machine_of("", "").isa, "portable");
}

TEST(Machine, ThisOneHasCoresAndMemory) {
  EXPECT_GT(this_machine().cores, 0U);
  EXPECT_GT(this_machine().ram_bytes, 0U);
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
