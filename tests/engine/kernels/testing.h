// What the kernel tests share: seeded data, and a run of a test body for every instruction set.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cpu/isa.h"

namespace plimsoll {

inline std::vector<float> random_floats(std::size_t n, std::uint32_t seed, float deviation = 1.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(n);
  for (float& v : values) v = normal(generator);
  return values;
}

// Every instruction set that this machine has; the best is restored after each test.
class EveryIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { force_isa(GetParam()); }
  void TearDown() override { force_isa(supported_isas().back()); }
};

inline std::string isa_name(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(to_string(info.param));
}

#define PLIMSOLL_FOR_EVERY_ISA(suite) \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, ::testing::ValuesIn(supported_isas()), isa_name)

}  // namespace plimsoll
