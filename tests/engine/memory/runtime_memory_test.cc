#include "engine/memory/runtime_memory.h"

#include <gtest/gtest.h>

#include <fstream>

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

TEST(RuntimeMemory, WrittenPagesAreToldApart) {
  std::string pattern = (fs::temp_directory_path() / "plimsoll-smaps-XXXXXX").string();
  const fs::path root = mkdtemp(pattern.data());
  fs::create_directories(root / "self");
  std::ofstream(root / "self/smaps")
      << "55d0-55d8 r--p 00000000 08:01 11                         /usr/bin/plimsoll\n"
         "Size:                 32 kB\nAnonymous:             4 kB\nVmFlags: rd mr\n"
         "7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
         "Anonymous:             0 kB\n"
         "7f0000001000-7f0000801000 rw-p 00000000 00:00 0 \n"
         "AnonHugePages:       512 kB\nAnonymous:            16 kB\n"
         "7f0000801000-7f0001801000 rw-p 00000000 00:00 0 \n"
         "Anonymous:           100 kB\n"
         "7f1000000000-7f1000001000 ---p 00000000 00:00 0 \n"
         "Anonymous:             0 kB\n"
         "7f1000001000-7f1040001000 rw-p 00000000 00:00 0 \n"
         "Anonymous:          1000 kB\n"
         "7f2000000000-7f2000002000 rw-p 00000000 08:01 12         /usr/lib/lib c.so\n"
         "Anonymous:             8 kB\n"
         "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0          [stack]\n"
         "Anonymous:            32 kB\n";
  const auto pages = read_anonymous_pages(root);
  fs::remove_all(root);
  ASSERT_TRUE(pages);
  EXPECT_EQ(pages->loader_bytes, 12U << 10);
  EXPECT_EQ(pages->stack_bytes, 48U << 10);
  EXPECT_EQ(pages->unnamed_bytes, 1100U << 10) << "a gigabyte above a guard is no stack";
  EXPECT_FALSE(read_anonymous_pages(root)) << "it is gone";
}

TEST(RuntimeMemory, TheOverheadIsWhatObjectsDoNotFill) {
  const HeapFigures heap{.allocated_bytes = 80, .cached_bytes = 10, .resident_bytes = 200};
  EXPECT_EQ(allocator_overhead({0, 0, 500}, 400, heap), 30U);
  EXPECT_EQ(allocator_overhead({0, 0, 900}, 400, heap), 130U)
      << "what is over its own figure is not the allocator's";
  EXPECT_EQ(allocator_overhead({0, 0, 400}, 400, heap), 0U);
}

}  // namespace
}  // namespace plimsoll
