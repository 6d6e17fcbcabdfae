#include "cluster/router.h"

#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

TEST(Router, TheNodesOfTheHomeSetAndTheModelsShareWhatIsATenants) {
  Router router;
  Actions actions;
  for (const char* name : {"a", "b", "c", "d"}) {
    NodeOffer offer;
    offer.name = name;
    offer.epoch = 1;
    offer.models = {"m", "n", "forbidden"};
    ASSERT_TRUE(router.join(offer, Time(0), actions));
  }
  Tenant tenant;
  tenant.name = "t";
  tenant.quota.models = {"m", "n"};
  router.set_tenant(tenant, Time(0));
  ASSERT_EQ(router.home("t", "m").size(), 4U);  // it is the only tenant
  EXPECT_EQ(router.node_share(tenant, "m"), 1.0 / 8);

  Tenant other;
  other.name = "other";
  router.set_tenant(other, Time(0));
  ASSERT_EQ(router.home("t", "m").size(), 2U);
  EXPECT_EQ(router.node_share(tenant, "m"), 1.0 / 4);
}

// What is over its limit is lent to a tenant while nobody is short of memory.
TEST(Router, ATenantBurstsWhileEveryNodeIsGreen) {
  Router router;
  Actions actions;
  NodeOffer offer;
  offer.name = "a";
  offer.epoch = 1;
  offer.models = {"m"};
  ASSERT_TRUE(router.join(offer, Time(0), actions));
  Tenant tenant;
  tenant.name = "t";
  tenant.quota.kv_bytes = 1000;
  tenant.quota.burst_bytes = 500;
  router.set_tenant(tenant, Time(0));
  router.quotas().set_share("t", 1, Quotas::no_expiry, Time(0));
  SequenceId id = 0;
  const auto ask = [&](std::uint32_t bytes) {
    NewStream stream;
    stream.tenant = "t";
    stream.model = "m";
    stream.prompt_tokens = bytes;
    stream.kv.token = 1;
    stream.sequences.push_back({++id, 0, {}});
    return router.submit(std::move(stream), Time(1), actions).decision.verdict;
  };
  EXPECT_EQ(ask(1000), Verdict::admitted);
  EXPECT_EQ(ask(300), Verdict::admitted);
  EXPECT_EQ(ask(300), Verdict::kv_bytes);
  Beat beat;
  beat.pressure = Level::yellow;
  router.beat("a", 1, beat, Time(1));
  EXPECT_EQ(ask(100), Verdict::kv_bytes);
  beat.pressure = Level::green;
  router.beat("a", 1, beat, Time(1));
  EXPECT_EQ(ask(100), Verdict::admitted);
}

}  // namespace
}  // namespace plimsoll::cluster
