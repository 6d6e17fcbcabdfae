// What an operator's calls do to a running cluster.
#include "actors/cluster_administration.h"

#include <gtest/gtest.h>

#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using testing::House;

struct Operator {
  explicit Operator(House& house)
      : calls(house.router, house.board, "router-0", House::tenants({})) {}
  ClusterAdministration calls;
};

std::string state_of(ClusterAdministration& calls, const std::string& name) {
  for (const auto& node : calls.cluster().nodes) {
    if (node.name == name) return node.state;
  }
  return "unknown";
}

TEST(ClusterAdministration, ACordonedNodeTakesNothingNewUntilItIsUncordoned) {
  House house;
  Operator op(house);
  ASSERT_TRUE(op.calls.cordon("node-0", true));
  EXPECT_EQ(state_of(op.calls, "node-0"), "cordoned");
  const auto refused = house.generate("abc", 3);
  ASSERT_TRUE(refused->wait());
  ASSERT_TRUE(refused->error);
  EXPECT_EQ(refused->error->code, ErrorCode::unavailable);
  const auto again = op.calls.cordon("node-0", true);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::failed_precondition);
  ASSERT_TRUE(op.calls.cordon("node-0", false));
  const auto served = house.generate("abc", 3);
  ASSERT_TRUE(served->wait());
  EXPECT_FALSE(served->error);
  EXPECT_EQ(op.calls.cordon("node-9", true).error().code, ErrorCode::not_found);
}

TEST(ClusterAdministration, ADrainedNodesStreamsGoOnElsewhere) {
  House house({.nodes = 2, .step = std::chrono::microseconds(1000)});
  Operator op(house);
  const auto answer = house.generate("abc", 300);
  ASSERT_TRUE(answer->wait_for_tokens(5));
  const std::string busy = house.engines[0]->idle() ? "node-1" : "node-0";
  const auto drained = op.calls.drain(busy, std::chrono::milliseconds(0));
  ASSERT_TRUE(drained) << to_string(drained.error());
  EXPECT_EQ(drained->moved, 1U);
  EXPECT_EQ(drained->cut, 0U);
  EXPECT_EQ(state_of(op.calls, busy), "draining");
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  std::string expected;
  while (expected.size() < 300) expected += "abc";
  EXPECT_EQ(answer->text.at(0), expected);
  EXPECT_EQ(op.calls.drain(busy, std::chrono::milliseconds(0)).error().code,
            ErrorCode::failed_precondition);
}

TEST(ClusterAdministration, UsageOnlyGrowsAndRefusalsAreCounted) {
  House house;
  Operator op(house);
  house.caller.tenant = TenantId("slow");
  ASSERT_TRUE(house.generate("abcd", 6)->wait());
  ASSERT_TRUE(house.generate("abcd", 6)->wait());
  auto usage = op.calls.usage();
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->at("slow").requests, 1U);
  EXPECT_EQ(usage->at("slow").prompt_tokens, 4U);
  EXPECT_EQ(usage->at("slow").generated_tokens, 6U);
  EXPECT_EQ(usage->at("slow").rejections.at("tenant_requests_rate"), 1U);
  usage = op.calls.usage();
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->at("slow").requests, 1U) << "asking does not reset it";
}

TEST(ClusterAdministration, TenantsAndModelsAreShown) {
  House house({.nodes = 2});
  Operator op(house);
  const auto tenants = op.calls.tenants();
  ASSERT_TRUE(tenants);
  ASSERT_EQ(tenants->size(), 2U);
  EXPECT_EQ(tenants->at(0).tenant.name, "local");
  EXPECT_FALSE(tenants->at(0).home.empty());
  EXPECT_EQ(op.calls.tenant("nobody").error().code, ErrorCode::not_found);
  EXPECT_EQ(op.calls.set_tier("local", cluster::Tier::guaranteed).error().code,
            ErrorCode::unsupported);
}

}  // namespace
}  // namespace plimsoll
