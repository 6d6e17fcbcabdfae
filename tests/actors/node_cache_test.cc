// What a node's operator, its tenants' records and its configuration say of its cache on disk.
#include "actors/node_cache.h"

#include <gmock/gmock.h>

#include "tests/actors/fake_disk_cache.h"

namespace plimsoll {
namespace {

using storage::CacheKind;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

struct NodeCacheTest : ::testing::Test {
  static CacheSettings settings() {
    CacheSettings settings;
    settings.tenant_bytes = 500;
    settings.ttl = 1h;
    return settings;
  }
  CacheReport report() { return node.answer(LookAtCache()).report; }

  std::shared_ptr<testing::FakeDiskCache> cache = std::make_shared<testing::FakeDiskCache>();
  NodeCache node{cache, settings()};
};

TEST_F(NodeCacheTest, ShowsWhatHoldsForWhom) {
  auto seen = report();
  EXPECT_EQ(seen.bytes, 100U);
  EXPECT_EQ(seen.limit_bytes, 1000U);
  EXPECT_EQ(seen.buffered_bytes, 10U);
  EXPECT_EQ(seen.index_bytes, 20U);
  EXPECT_EQ(seen.table_bytes, 30U);
  EXPECT_EQ(seen.trouble, "the disk is full");
  ASSERT_EQ(seen.rows.size(), 2U) << "what nobody has touched is left out";
  EXPECT_EQ(seen.rows[0].tenant, "acme");
  EXPECT_EQ(seen.rows[0].kind, CacheKind::prefix);
  EXPECT_EQ(seen.rows[0].counts.hits_total, 3U);
  EXPECT_EQ(seen.rows[0].quota_bytes, 500U);
  EXPECT_EQ(seen.rows[0].ttl, 1h);
  EXPECT_EQ(seen.rows[1].kind, CacheKind::tokens);

  cluster::CachePolicy policy;
  policy.bytes = 77;
  policy.ttl_ms[0] = 5000;
  node.set_policies({{"acme", policy}});
  ASSERT_FALSE(node.answer(SetCacheTtl{CacheKind::prefix, 2h}).error);
  ASSERT_FALSE(node.answer(SetCacheTtl{CacheKind::tokens, 3h}).error);
  seen = report();
  EXPECT_EQ(seen.rows[0].quota_bytes, 77U);
  EXPECT_EQ(seen.rows[0].ttl, 5s) << "its own";
  EXPECT_EQ(seen.rows[1].quota_bytes, 500U);
  EXPECT_EQ(seen.rows[1].ttl, 3h);
  ASSERT_FALSE(node.answer(SetCacheTtl{CacheKind::tokens, {}}).error);
  EXPECT_EQ(report().rows[1].ttl, 1h) << "as configured again";
}

TEST_F(NodeCacheTest, SetsWhatHasChangedAndTakesBackWhatIsGone) {
  cluster::CachePolicy a, b;
  a.bytes = 1;
  b.ttl_ms[1] = 2;
  node.set_policies({{"a", a}, {"b", b}});
  EXPECT_THAT(cache->asked(), ElementsAre("quota a 1", "quota b default", "ttl embedding b 2"));
  node.set_policies({{"a", a}, {"b", b}});
  EXPECT_EQ(cache->asked().size(), 3U) << "nothing is new";
  a.bytes = 0;
  node.set_policies({{"a", a}});
  EXPECT_THAT(cache->asked(),
              ElementsAre("quota a 1", "quota b default", "ttl embedding b 2", "quota b default",
                          "ttl embedding b default", "quota a 0"));
}

TEST_F(NodeCacheTest, PurgesAndSaysWhyItCannot) {
  const auto done = node.answer(storage::CachePurge{TenantId("acme"), CacheKind::embedding, 3600s});
  EXPECT_FALSE(done.error);
  EXPECT_EQ(done.purged_entries, 7U);
  EXPECT_THAT(cache->asked(), ElementsAre("purge acme embedding 3600000"));
  cache->purge_error = Error(ErrorCode::deadline_exceeded, "the disk is slow");
  const auto failed = node.answer(storage::CachePurge{});
  ASSERT_TRUE(failed.error);
  EXPECT_EQ(failed.error->code, ErrorCode::deadline_exceeded);
}

TEST_F(NodeCacheTest, APurgeWaitsForWhatHasToBeOverBefore) {
  std::promise<void> over;
  const auto gone = std::promise<void>().get_future().share();  // whoever would say so has ended
  const std::vector after{gone, over.get_future().share()};
  const storage::CachePurge what{TenantId("acme"), {}, 0ms};
  const auto late = node.purge(what, after, 1ms);
  ASSERT_TRUE(late.error);
  EXPECT_EQ(late.error->code, ErrorCode::deadline_exceeded);
  EXPECT_THAT(cache->asked(), IsEmpty());
  over.set_value();
  EXPECT_EQ(node.purge(what, after).purged_entries, 7U);
}

TEST_F(NodeCacheTest, ATtlThatIsTooLongChangesNothing) {
  const auto refused = node.answer(SetCacheTtl{CacheKind::prefix, 24h * 31});
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->code, ErrorCode::invalid_argument);
  EXPECT_THAT(cache->asked(), IsEmpty());
  EXPECT_EQ(report().rows[0].ttl, 1h);
}

}  // namespace
}  // namespace plimsoll
