#include "actors/request_memory.h"

#include <gtest/gtest.h>

#include <vector>

#include "cluster/pressure.h"

namespace plimsoll {
namespace {

class RequestMemoryTest : public ::testing::Test {
 protected:
  RequestLease lease(const char* tenant) {
    return {memory_, TenantId(tenant), ledger_.account(Component::rpc, "", TenantId(tenant))};
  }
  std::int64_t charged(const char* tenant) {
    return ledger_.account(Component::rpc, "", TenantId(tenant)).bytes();
  }
  Ledger ledger_;
  RequestMemory memory_{1200};
};

TEST_F(RequestMemoryTest, ATenantMayHoldHalfOfWhatOthersLeave) {
  auto a = lease("a"), more = lease("a"), b = lease("b"), c = lease("c");
  EXPECT_FALSE(a.hold(601));
  EXPECT_TRUE(a.hold(500));
  EXPECT_FALSE(more.hold(101)) << "all of its leases together";
  EXPECT_TRUE(more.hold(100));
  EXPECT_FALSE(b.hold(301));
  EXPECT_TRUE(b.hold(300));
  EXPECT_TRUE(c.hold(150)) << "whoever comes next finds something";
  EXPECT_EQ(memory_.held_bytes(), 1050U);
  more.reset();
  c.reset();
  EXPECT_TRUE(b.hold(350));
  EXPECT_FALSE(b.hold(351));
}

TEST_F(RequestMemoryTest, TheLedgerSaysWhoseItIs) {
  auto a = lease("a");
  EXPECT_TRUE(a.hold(400));
  EXPECT_TRUE(a.hold(100)) << "it holds more already";
  EXPECT_EQ(charged("a"), 400);
  a.resize(700);
  EXPECT_EQ(charged("a"), 700) << "what is there already is not refused";
  RequestLease moved = std::move(a);
  moved.resize(50);
  EXPECT_EQ(charged("a"), 50);
  EXPECT_EQ(memory_.held_bytes(), 50U);
  Charge handed = moved.hand_over();
  EXPECT_EQ(memory_.held_bytes(), 50U);
  moved.reset();
  EXPECT_EQ(memory_.held_bytes(), 0U);
  EXPECT_EQ(charged("a"), 50);
  handed.reset();
  EXPECT_EQ(charged("a"), 0);
}

TEST_F(RequestMemoryTest, SaysWhetherToComeAgain) {
  EXPECT_GT(request_memory_taken(memory_, 600).retry_after_ms, 0U);
  EXPECT_EQ(request_memory_taken(memory_, 601).retry_after_ms, 0U);
}

TEST(RequestMemory, FitsIntoWhatTheLadderKeepsFree) {
  for (const std::uint64_t limit : {64_MiB, 128_MiB, 1024_MiB, 64 * 1024_MiB}) {
    const auto free = limit - cluster::begins_at({}, cluster::Level::orange, limit);
    EXPECT_LE(2 * request_memory_bytes(limit, 8_MiB), free);
    EXPECT_GE(request_memory_bytes(limit, 8_MiB), std::min<std::uint64_t>(free / 2, 256_MiB));
  }
  EXPECT_GE(request_memory_bytes(0, 100_MiB), 6 * 100_MiB) << "the largest body can be read";
}

}  // namespace
}  // namespace plimsoll
