#include "cluster/router.h"

#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

TEST(Router, TheNodesOfTheHomeSetAndTheModelsShareATenantsCache) {
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
  EXPECT_EQ(router.cache_share("t", "m"), std::nullopt);
  EXPECT_EQ(router.cache_share("nobody", "m"), std::nullopt);

  tenant.quota.cache_bytes = 8000;
  router.set_tenant(tenant, Time(0));
  ASSERT_EQ(router.home("t", "m").size(), 4U);  // it is the only tenant
  EXPECT_EQ(router.cache_share("t", "m"), 1000U);

  Tenant other;
  other.name = "other";
  router.set_tenant(other, Time(0));
  ASSERT_EQ(router.home("t", "m").size(), 2U);
  EXPECT_EQ(router.cache_share("t", "m"), 2000U);
}

}  // namespace
}  // namespace plimsoll::cluster
