#include "engine/memory/headroom.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engine/memory/pressure_trigger.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using Kind = MemoryScope::Kind;

// A recorded tree of /proc and /sys/fs/cgroup.
class Headroom : public ::testing::Test {
 protected:
  Headroom()
      : root_(fs::temp_directory_path() /
              ("headroom_" + std::to_string(getpid()) + "_" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n");
    write("proc/self/status", "Name:\tx\nRssAnon:\t  30 kB\nRssShmem:\t 2 kB\nVmSwap:\t 1 kB\n");
  }
  ~Headroom() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void v2(const std::string& group, const char* max, std::uint64_t current,
          std::uint64_t cache) const {
    const std::string folder = "sys/fs/cgroup" + group;
    write(folder + "/memory.max", max);
    write(folder + "/memory.current", std::to_string(current));
    write(folder + "/memory.stat", "anon 5\nactive_file " + std::to_string(cache / 2) +
                                       "\ninactive_file " + std::to_string(cache - cache / 2) +
                                       "\nslab_reclaimable 0\n");
  }
  std::vector<MemoryScope> read(std::uint64_t limit = 0) const {
    return read_memory_scopes(limit, root_).value();
  }
  fs::path root_;
};

TEST_F(Headroom, TheMachineIsAlwaysAScope) {
  const auto scopes = read();
  ASSERT_EQ(scopes.size(), 1U);
  EXPECT_EQ(scopes[0].kind, Kind::machine);
  EXPECT_EQ(scopes[0].used_bytes, 400U * 1024);
  EXPECT_EQ(scopes[0].limit_bytes, 1000U * 1024);
}

TEST_F(Headroom, AGivenLimitIsHeldAgainstWhatThisProcessCannotGiveBack) {
  const auto scopes = read(100 * 1024);
  ASSERT_EQ(scopes.size(), 2U);
  EXPECT_EQ(scopes[0].kind, Kind::process);
  EXPECT_EQ(scopes[0].used_bytes, 33U * 1024);
  EXPECT_EQ(tightest_limit_bytes(scopes), 100U * 1024);
}

// What kills is the group whose limit is reached first, and a sibling may have filled it.
TEST_F(Headroom, OfTheGroupsOnTheWayUpTheFullestCounts) {
  write("proc/self/cgroup", "0::/pods/plimsoll\n");
  write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  v2("/pods/plimsoll", "1000", 500, 200);
  v2("/pods", "4000", 3500, 100);
  auto scopes = read();
  ASSERT_EQ(scopes.size(), 2U);
  EXPECT_EQ(scopes[0].kind, Kind::cgroup);
  EXPECT_EQ(scopes[0].path, "/pods");
  EXPECT_EQ(scopes[0].used_bytes, 3400U);
  v2("/pods", "max", 3500, 100);
  scopes = read();
  EXPECT_EQ(scopes[0].path, "/pods/plimsoll");
  EXPECT_EQ(scopes[0].used_bytes, 300U);
  EXPECT_EQ(scopes[0].limit_bytes, 1000U);
  write("sys/fs/cgroup/pods/plimsoll/memory.high", "800\n");
  EXPECT_EQ(read()[0].limit_bytes, 800U);
}

TEST_F(Headroom, V1CountsWhatTheGroupAndThoseBelowItHold) {
  write("proc/self/cgroup", "4:memory:/a/b\n0::/x\n");
  write("proc/self/mountinfo",
        "35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "41 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  const std::string b = "sys/fs/cgroup/memory/a/b/";
  write(b + "memory.limit_in_bytes", "9223372036854771712\n");
  write(b + "memory.usage_in_bytes", "700\n");
  write(b + "memory.stat",
        "active_file 1\nhierarchical_memory_limit 2000\ntotal_active_file 150\n"
        "total_inactive_file 50\n");
  const auto scopes = read();
  ASSERT_EQ(scopes.size(), 2U);
  EXPECT_EQ(scopes[0].limit_bytes, 2000U);
  EXPECT_EQ(scopes[0].used_bytes, 500U);
}

TEST_F(Headroom, NoTriggerWithoutAGroupOfItsOwn) {
  write("proc/self/cgroup", "0::/\n");
  write("proc/self/mountinfo", "35 30 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  write("sys/fs/cgroup/memory.pressure", "");
  const auto trigger =
      PressureTrigger::open(std::chrono::milliseconds(100), std::chrono::seconds(1), root_);
  ASSERT_FALSE(trigger);
  EXPECT_EQ(trigger.error().code, ErrorCode::unsupported);
}

TEST(PressureTrigger, WaitsOnTheLiveKernel) {
  auto trigger = PressureTrigger::open(std::chrono::milliseconds(500), std::chrono::seconds(2));
  if (!trigger) GTEST_SKIP() << trigger.error().message;
  pollfd waits{trigger->descriptor(), POLLPRI, 0};
  EXPECT_GE(poll(&waits, 1, 0), 0);
  EXPECT_EQ(waits.revents & POLLERR, 0);
}

}  // namespace
}  // namespace plimsoll
