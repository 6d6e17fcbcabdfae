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

TEST(Tenant, AnAnswerOfNoSaidLengthFitsTheCaps) {
  EXPECT_EQ(usual_generation({}, 10, 1, 500), 500U);
  EXPECT_EQ(usual_generation({.generated_tokens = 100}, 10, 1, 500), 100U);
  EXPECT_EQ(usual_generation({.generated_tokens = 100}, 10, 1, 50), 50U) << "room counts too";
  EXPECT_EQ(usual_generation({.generated_tokens = 100, .request_tokens = 110}, 60, 1, 500), 50U);
  EXPECT_EQ(usual_generation({.request_tokens = 110}, 60, 4, 500), 12U) << "all answers share";
  EXPECT_EQ(usual_generation({.request_tokens = 110}, 110, 1, 500), 0U);
  EXPECT_EQ(usual_generation({.request_tokens = 110}, 200, 1, 500), 0U);
}

TEST(Tenant, ItsOwnCapsCountBeforeItsTiers) {
  Tenant tenant;
  tenant.quota.generated_tokens = 7;
  const TierCaps tiers{RequestCaps{9, 9, 9, 9}, RequestCaps{1, 2, 3, 4}, RequestCaps{}};
  EXPECT_EQ(caps_of(tenant, tiers), (RequestCaps{1, 7, 3, 4}));
  tenant.tier = Tier::best_effort;
  EXPECT_EQ(caps_of(tenant, tiers), (RequestCaps{0, 7, 0, 0}));
}

}  // namespace
}  // namespace plimsoll::cluster
