#include "actors/fault_hooks.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(FaultHooks, AreOffUnlessSet) {
  const auto none = parse_fault_hooks(nullptr, nullptr);
  ASSERT_TRUE(none);
  EXPECT_EQ(*none, FaultHooks{});
  EXPECT_TRUE(none->governor);
}

TEST(FaultHooks, AreWhatTheEnvironmentSays) {
  const auto both = parse_fault_hooks("off", "1048576");
  ASSERT_TRUE(both);
  EXPECT_FALSE(both->governor);
  EXPECT_EQ(both->leak_bytes_per_second, 1048576);
  EXPECT_TRUE(parse_fault_hooks("on", nullptr)->governor);
}

TEST(FaultHooks, AMistakeIsNoDrill) {
  for (const char* text : {"", "0", "false", "OFF"}) EXPECT_FALSE(parse_fault_hooks(text, nullptr));
  for (const char* text : {"", "1MiB", "-1", "1 "}) EXPECT_FALSE(parse_fault_hooks(nullptr, text));
}

}  // namespace
}  // namespace plimsoll
