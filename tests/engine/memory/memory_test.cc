#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "engine/memory/arena.h"
#include "engine/memory/ledger.h"
#include "engine/memory/process_memory.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

TEST(LedgerTest, SumsByAccountAndKeepsPeaks) {
  Ledger ledger;
  Account& kv = ledger.account(Component::kv, "m", TenantId("a"));
  EXPECT_EQ(&kv, &ledger.account(Component::kv, "m", TenantId("a")));
  {
    const Charge one(kv, 100);
    Charge two(kv, 50);
    two.resize(80);
    EXPECT_EQ(kv.bytes(), 180);
    Charge moved = std::move(two);
    EXPECT_EQ(kv.bytes(), 180);
    moved.resize(10);
    EXPECT_EQ(kv.bytes(), 110);
  }
  EXPECT_EQ(kv.bytes(), 0);
  EXPECT_EQ(kv.peak_bytes(), 180);
  ledger.account(Component::kv, "m", TenantId("b")).charge(7);
  ledger.account(Component::weights, "m", shared_tenant, MemoryKind::mapped).charge(1000);
  EXPECT_EQ(ledger.total_bytes(MemoryKind::anonymous), 7);
  EXPECT_EQ(ledger.total_bytes(MemoryKind::mapped), 1000);
  EXPECT_EQ(ledger.snapshot().size(), 3U);
}

TEST(Ledger, OfManyRowsTheLargestStayAndTheSumIsTheSame) {
  Ledger ledger;
  for (int i = 1; i <= 9; ++i) {
    ledger.account(Component::kv, "m", TenantId("t" + std::to_string(i))).charge(i);
  }
  ledger.account(Component::weights, "m", shared_tenant, MemoryKind::mapped).charge(1);
  EXPECT_EQ(largest_rows(ledger.snapshot(), 10).size(), 10U);
  const auto rows = largest_rows(ledger.snapshot(), 2);
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(rows[0].tenant, "t9");
  EXPECT_EQ(rows[1].tenant, "t8");
  std::int64_t kv = 0;
  for (const auto& row : rows) {
    if (row.component == Component::kv) kv += row.bytes;
    if (row.component == Component::weights) {
      EXPECT_EQ(row.tenant, "others");
      EXPECT_EQ(row.kind, MemoryKind::mapped);
    }
  }
  EXPECT_EQ(kv, 45);
}

TEST(Ledger, NamesAreReadAsTheyAreWritten) {
  for (int i = 0; i < component_count; ++i) {
    EXPECT_EQ(component_of(to_string(static_cast<Component>(i))), static_cast<Component>(i));
  }
  for (const auto kind : {MemoryKind::anonymous, MemoryKind::mapped, MemoryKind::device}) {
    EXPECT_EQ(kind_of(to_string(kind)), kind);
  }
}

TEST(Ledger, EndpointsHaveTheirOwnAccounts) {
  Ledger ledger;
  const TenantId tenant("a");
  ledger.account(Component::kv, "m", tenant, Endpoint::completions).charge(5);
  ledger.account(Component::kv, "m", tenant).charge(1);
  const auto rows = ledger.snapshot();
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].endpoint, Endpoint::none);
  EXPECT_EQ(rows[1].endpoint, Endpoint::completions);
  EXPECT_EQ(rows[1].bytes, 5);
  EXPECT_EQ(ledger.total_bytes(MemoryKind::anonymous), 6);
}

TEST(LedgerTest, AssigningAChargeReleasesTheOldOne) {
  Ledger ledger;
  Account& a = ledger.account(Component::requests, "", TenantId("a"));
  Charge charge(a, 10);
  charge = Charge(a, 3);
  EXPECT_EQ(a.bytes(), 3);
  charge = Charge();
  EXPECT_EQ(a.bytes(), 0);
}

TEST(LedgerTest, TenantsWithoutEndFoldIntoOne) {
  Ledger ledger;
  for (int i = 0; i < 70'000; ++i) {
    ledger.account(Component::requests, "", TenantId("t" + std::to_string(i))).charge(1);
  }
  const auto rows = ledger.snapshot();
  EXPECT_LE(rows.size(), 65'537U);
  EXPECT_EQ(ledger.total_bytes(MemoryKind::anonymous), 70'000) << "nothing is lost";
}

TEST(LedgerTest, ChargingFromManyThreadsLosesNothing) {
  Ledger ledger;
  Account& account = ledger.account(Component::queues, "", shared_tenant);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10'000; ++i) {
          account.charge(3);
          account.release(2);
        }
      });
    }
  }
  EXPECT_EQ(account.bytes(), 40'000);
  EXPECT_GE(account.peak_bytes(), 40'000);
}

TEST(ArenaTest, IsChargedAlignedAndGivenBack) {
  Ledger ledger;
  Account& account = ledger.account(Component::activations, "", shared_tenant);
  {
    Arena arena = Arena::make(account, 100'000).value();
    EXPECT_GE(account.bytes(), 100'000);
    const auto first = arena.take<char>(3);
    const auto second = arena.take<double>(5);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(second.data()) % 64, 0U);
    EXPECT_GE(reinterpret_cast<char*>(second.data()), first.data() + 3);
    std::memset(arena.data(), 1, arena.size());
    arena.discard(0, arena.size());
    EXPECT_EQ(arena.data()[0], std::byte{0});
    const Arena moved = std::move(arena);
    EXPECT_GE(account.bytes(), 100'000);
  }
  EXPECT_EQ(account.bytes(), 0);
  EXPECT_EQ(Arena::make(account, 1ULL << 60).error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(account.bytes(), 0);
}

TEST(ArenaTest, ReportsTellWhatOfItIsTouched) {
  Ledger ledger;
  Account& account = ledger.account(Component::activations, "", shared_tenant);
  Arena arena = Arena::make(account, 64 * 4096).value();
  account.charge(100);  // and what has no region counts in whole
  EXPECT_EQ(account.resident_bytes(), 100);
  std::memset(arena.data(), 1, 16 * 4096);
  EXPECT_EQ(account.resident_bytes(), 16 * 4096 + 100);
  EXPECT_EQ(account.bytes(), 64 * 4096 + 100);
  account.release(100);
}

TEST(ArenaTest, DiscardKeepsWhatSharesAPage) {
  Ledger ledger;
  Arena arena = Arena::make(ledger.account(Component::kv, "", shared_tenant), 3 * 4096).value();
  std::memset(arena.data(), 1, arena.size());
  arena.discard(100, 2 * 4096);  // only the page in the middle lies inside
  EXPECT_EQ(arena.data()[50], std::byte{1});
  EXPECT_EQ(arena.data()[4000], std::byte{1});
  EXPECT_EQ(arena.data()[4096], std::byte{0});
  EXPECT_EQ(arena.data()[2 * 4096], std::byte{1});
}

// A recorded tree of /proc and /sys/fs/cgroup.
class TreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "plimsoll-tree-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  fs::path root_;
};

constexpr const char* pressure_text =
    "some avg10=1.50 avg60=0.50 avg300=0.10 total=12345\n"
    "full avg10=0.25 avg60=0.05 avg300=0.01 total=678\n";

TEST_F(TreeTest, PureV2TakesTheTightestLimitOnTheWayUp) {
  write("proc/self/cgroup", "0::/pods/plimsoll\n");
  write("proc/self/mountinfo",
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  write("sys/fs/cgroup/pods/memory.max", "1000000\n");
  write("sys/fs/cgroup/pods/plimsoll/memory.max", "max\n");
  write("sys/fs/cgroup/pods/plimsoll/memory.high", "900000\n");
  write("sys/fs/cgroup/pods/plimsoll/memory.current", "400000\n");
  write("sys/fs/cgroup/pods/plimsoll/memory.events", "low 0\nhigh 3\nmax 5\noom 1\noom_kill 2\n");
  write("sys/fs/cgroup/pods/plimsoll/memory.pressure", pressure_text);
  write("sys/fs/cgroup/pods/plimsoll/cgroup.type", "domain\n");
  const auto memory = read_cgroup_memory(root_).value();
  EXPECT_EQ(memory.version, CgroupVersion::v2);
  EXPECT_EQ(memory.current_bytes, 400000U);
  EXPECT_EQ(memory.limit_bytes, 1000000U);
  EXPECT_EQ(memory.high_bytes, 900000U);
  EXPECT_EQ(memory.oom_kills, 2U);
  EXPECT_EQ(memory.limit_hits, 5U);
  EXPECT_EQ(memory.high_hits, 3U);
  EXPECT_EQ(memory.ooms, 1U);
  EXPECT_EQ(memory.under_oom, std::nullopt) << "v1's figure";
  const auto pressure = read_memory_pressure(root_).value();
  EXPECT_TRUE(pressure.cgroup_scoped);
  EXPECT_DOUBLE_EQ(pressure.some_avg10, 1.5);
  EXPECT_DOUBLE_EQ(pressure.full_avg60, 0.05);
  EXPECT_EQ(pressure.some_total_us, 12345U);
  write("proc/pressure/memory", "some avg10=80.00 avg60=0.50 avg300=0.10 total=1\n");
  EXPECT_DOUBLE_EQ(read_memory_pressure(root_)->some_avg10, 1.5);
  EXPECT_DOUBLE_EQ(read_host_pressure(root_)->some_avg10, 80);
  EXPECT_FALSE(read_host_pressure(root_)->cgroup_scoped);
}

TEST_F(TreeTest, V1WithTheMountAtTheContainersGroup) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n");
  write("proc/self/mountinfo",
        "41 30 0:30 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "777\n");
  write("sys/fs/cgroup/memory/memory.stat", "cache 1\nhierarchical_memory_limit 5000\n");
  write("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 4\n");
  write("sys/fs/cgroup/memory/memory.failcnt", "9\n");
  const auto memory = read_cgroup_memory(root_).value();
  EXPECT_EQ(memory.version, CgroupVersion::v1);
  EXPECT_EQ(memory.current_bytes, 777U);
  EXPECT_EQ(memory.limit_bytes, 5000U);
  EXPECT_EQ(memory.oom_kills, 4U);
  EXPECT_EQ(memory.limit_hits, 9U);
  EXPECT_EQ(memory.under_oom, true);
  EXPECT_EQ(memory.high_hits, std::nullopt);
}

TEST_F(TreeTest, HybridTakesMemoryFromV1AndPressureFromV2) {
  write("proc/self/cgroup", "4:memory:/a\n0::/b\n");
  write("proc/self/mountinfo",
        "35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "41 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "12\n");
  write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/unified/b/cgroup.type", "domain\n");
  write("sys/fs/cgroup/unified/b/memory.pressure", pressure_text);
  write("proc/pressure/memory", "some avg10=99.00 avg60=0 avg300=0 total=1\n");
  const auto memory = read_cgroup_memory(root_).value();
  EXPECT_EQ(memory.version, CgroupVersion::v1);
  EXPECT_EQ(memory.limit_bytes, std::nullopt) << "v1's way to say unlimited";
  EXPECT_DOUBLE_EQ(read_memory_pressure(root_)->some_avg10, 1.5) << "its own, not the host's";
}

TEST_F(TreeTest, TheHostsPressureIsMarkedAsTheHosts) {
  write("proc/self/cgroup", "0::/\n");
  write("proc/self/mountinfo", "35 30 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  write("sys/fs/cgroup/memory.pressure", pressure_text);
  write("proc/pressure/memory", pressure_text);
  EXPECT_FALSE(read_memory_pressure(root_)->cgroup_scoped);
  EXPECT_EQ(read_cgroup_memory(root_).error().code, ErrorCode::not_found);
}

TEST_F(TreeTest, NothingThereIsAnErrorNotZero) {
  EXPECT_FALSE(read_cgroup_memory(root_));
  EXPECT_FALSE(read_memory_pressure(root_));
  EXPECT_FALSE(read_process_memory(root_ / "proc"));
}

TEST(ProcessMemoryTest, SeesWhatThisProcessTouches) {
  const auto before = read_process_memory().value();
  constexpr std::uint64_t size = 32_MiB;
  std::vector<char> block(size, 'x');
  const auto after = read_process_memory().value();
  EXPECT_GT(after.anonymous_bytes, before.anonymous_bytes + size * 9 / 10);
  EXPECT_EQ(after.rss_bytes, after.anonymous_bytes + after.file_bytes);
}

TEST(ProcessMemoryTest, TheReportIsTheDifference) {
  Ledger ledger;
  const Charge charge(ledger.account(Component::kv, "", shared_tenant), 1_MiB);
  const auto report = make_memory_report(ledger).value();
  ASSERT_EQ(report.rows.size(), 2U);
  EXPECT_EQ(report.rows[0].bytes, static_cast<std::int64_t>(1_MiB));
  EXPECT_EQ(report.rows[1].component, Component::runtime) << "measured, where nobody charges it";
  EXPECT_GT(report.rows[1].bytes, 0);
  EXPECT_EQ(report.ledger_anonymous_bytes, report.rows[0].bytes + report.rows[1].bytes);
  EXPECT_EQ(report.unattributed_bytes, static_cast<std::int64_t>(report.process.anonymous_bytes) -
                                           report.ledger_anonymous_bytes);
}

TEST(MappedChargeTest, TellsHowMuchOfAMappingIsInMemory) {
  constexpr std::uint64_t size = 64 * 4096;
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(data, MAP_FAILED);
  Ledger ledger;
  {
    const MappedCharge charge(ledger, Component::weights, "m", data, size);
    auto rows = ledger.snapshot();
    ASSERT_EQ(rows.size(), 1U);
    EXPECT_EQ(rows[0].bytes, static_cast<std::int64_t>(size));
    EXPECT_EQ(rows[0].resident_bytes, 0);
    std::memset(data, 1, size / 2);
    EXPECT_EQ(ledger.snapshot()[0].resident_bytes, static_cast<std::int64_t>(size / 2));
  }
  EXPECT_EQ(ledger.snapshot()[0].bytes, 0);
  munmap(data, size);
}

}  // namespace
}  // namespace plimsoll
