#include "cli/output.h"

#include <gtest/gtest.h>

namespace plimsoll::cli {
namespace {

TEST(TableTest, AlignsColumnsByDisplayedWidth) {
  Table table({{"NAME"}, {"BYTES", true}});
  table.add({"é", "1"});
  table.add({"longer", "12345"});
  EXPECT_EQ(table.text(),
            "NAME    BYTES\n"
            "é           1\n"
            "longer  12345\n");
}

TEST(HumanTest, BytesAndDurations) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(98'566'144), "94.0 MiB");
  EXPECT_EQ(human_bytes(-2048), "-2.0 KiB");
  EXPECT_EQ(human_duration(59.9), "59s");
  EXPECT_EQ(human_duration(312), "5m 12s");
  EXPECT_EQ(human_duration(3 * 86400 + 4 * 3600), "3d 4h");
}

}  // namespace
}  // namespace plimsoll::cli
