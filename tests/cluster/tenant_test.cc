#include "cluster/tenant.h"

#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

TEST(Tenant, UsageOfTwoRoutersIsSummedReasonByReason) {
  Usage a{1, 10, 4, 20, 0.5, 1, 2.5, {{"tenant_rate", 2}, {"shed", 1}}};
  const Usage b{2, 30, 5, 40, 1.5, 2, 0.5, {{"tenant_rate", 3}, {"deadline", 7}}};
  EXPECT_EQ(a += b,
            (Usage{3, 40, 9, 60, 2.0, 3, 3, {{"deadline", 7}, {"shed", 1}, {"tenant_rate", 5}}}));
}

TEST(Tenant, TiersHaveNamesAndFallingWeights) {
  EXPECT_EQ(to_string(Tier::guaranteed), "guaranteed");
  EXPECT_EQ(to_string(Tier::standard), "standard");
  EXPECT_EQ(to_string(Tier::best_effort), "best-effort");
  EXPECT_GT(weight_of(Tier::guaranteed), weight_of(Tier::standard));
  EXPECT_GT(weight_of(Tier::standard), weight_of(Tier::best_effort));
}

}  // namespace
}  // namespace plimsoll::cluster
