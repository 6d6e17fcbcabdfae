#include "cluster/lease.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

namespace plimsoll::cluster {
namespace {

constexpr LeaseConfig config;

double share(const QuotaLease& lease, const std::string& router) {
  return granted(lease, router).share;
}

// Some rounds of renewals by routers that all live, a third of a lease apart.
QuotaLease rounds(QuotaLease lease, const std::vector<double>& demands, int count,
                  std::uint64_t from_ms = 0) {
  for (int round = 0; round < count; ++round) {
    for (std::size_t r = 0; r < demands.size(); ++r) {
      const std::uint64_t now = from_ms + static_cast<std::uint64_t>(round) * 1000 + r * 10;
      const auto name = std::to_string(r);
      const double in_use = share(lease, name);
      lease = renew(std::move(lease), name, demands[r], in_use, now);
    }
  }
  return lease;
}

TEST(Lease, ALoneRouterHasAllOfIt) {
  const auto lease = renew({}, "a", 0, 0, 1000);
  EXPECT_DOUBLE_EQ(share(lease, "a"), 0.95) << "the rest waits for who comes to it";
  EXPECT_EQ(granted(lease, "a").until_ms, 4000U);
  EXPECT_EQ(share(lease, "b"), 0);
}

TEST(Lease, ConvergesInAFewRounds) {
  // All of it fits: in proportion.
  auto lease = rounds({}, {0.6, 0.2, 0.1}, 3);
  EXPECT_NEAR(share(lease, "0"), 0.6 / 0.9 * 0.95, 0.02);
  EXPECT_NEAR(share(lease, "1"), 0.2 / 0.9 * 0.95, 0.02);
  // More than there is: nobody gets more than it wants, the rest is divided equally.
  lease = rounds(lease, {5, 0.2, 0.7}, 4, 3000);
  EXPECT_NEAR(share(lease, "0"), 0.375, 1e-9);
  EXPECT_NEAR(share(lease, "1"), 0.2, 1e-9);
  EXPECT_NEAR(share(lease, "2"), 0.375, 1e-9);
}

TEST(Lease, ARouterWithNewDemandSoonGetsItsFloorAndThenItsPart) {
  auto lease = rounds({}, {3, 0}, 4);
  EXPECT_NEAR(share(lease, "0"), 0.9, 1e-9);
  EXPECT_NEAR(share(lease, "1"), 0.05, 1e-9) << "it may start at once";
  lease = rounds(lease, {3, 0.3, 0.3}, 3, 4000);
  EXPECT_GE(share(lease, "1"), 0.3 - 1e-9);
  EXPECT_GE(share(lease, "2"), config.floor) << "a router that is new";
}

TEST(Lease, ManyIdleRoutersDoNotEatTheQuota) {
  std::vector<double> demands(40, 0.0);
  demands[7] = 1;
  const auto lease = rounds({}, demands, 4);
  EXPECT_GE(share(lease, "7"), 0.7 - 1e-9);
  EXPECT_GT(share(lease, "39"), 0);
}

TEST(Lease, TakesADeadRoutersShareOnlyAfterTheSkew) {
  auto lease = rounds({}, {1, 1}, 3);  // last renewed at 2000 and 2010
  EXPECT_NEAR(share(lease, "0"), 0.475, 1e-9);
  lease = renew(lease, "1", 1, 0.5, 5499);
  EXPECT_NEAR(share(lease, "1"), 0.475, 1e-9) << "0 may use its own by a clock that is behind";
  lease = renew(lease, "1", 1, 0.5, 5500);
  EXPECT_DOUBLE_EQ(share(lease, "1"), 0.95);
  EXPECT_EQ(lease.shares.size(), 1U) << "the record does not grow with routers that are gone";
}

// A router whose replies are lost acts on its old share: that stays its own.
TEST(Lease, WhatIsInUseIsNotGivenUp) {
  auto lease = renew({}, "a", 1, 0, 0);
  lease = renew(lease, "b", 1, 0, 10);
  EXPECT_NEAR(share(lease, "b"), config.reserve, 1e-9) << "at once";
  lease = renew(lease, "a", 1, 0.95, 1000);
  EXPECT_NEAR(share(lease, "a"), 0.475, 1e-9) << "that much it may use from now on";
  lease = renew(lease, "b", 1, 0.05, 1010);
  EXPECT_NEAR(share(lease, "b"), 0.05, 1e-9) << "but it may not know yet";
  lease = renew(lease, "a", 1, 0.75, 2000);
  lease = renew(lease, "b", 1, 0.05, 2010);
  EXPECT_NEAR(share(lease, "b"), 0.25, 1e-9);
  lease = renew(lease, "a", 1, 0.475, 3000);
  lease = renew(lease, "b", 1, 0.25, 3010);
  EXPECT_NEAR(share(lease, "b"), 0.475, 1e-9);
  lease = renew(lease, "b", 1, 0.9, 3020);
  EXPECT_NEAR(share(lease, "b"), 0.475, 1e-9) << "nor does using more than it has bring more";
}

TEST(Lease, BadDemandIsNone) {
  auto lease = renew({}, "a", std::nan(""), 0, 0);
  lease = renew(lease, "b", -1, 0, 0);
  for (const auto& each : lease.shares) EXPECT_EQ(each.demand, 0);
}

// Routers whose clocks are off by up to the skew, whose renewals are lost before or after they are
// stored, who die and come back: what all of them may use is never over the quota.
TEST(Lease, NeverMoreThanTheQuota) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto uniform = [&](std::uint64_t below) { return random() % below; };
    struct Router {
      std::string name;
      std::int64_t clock = 0;  // off by
      double usable = 0;
      std::uint64_t until = 0;  // by its own clock
      std::uint64_t renews_at = 0;
      bool dead = false;
      QuotaLease read;  // between its read and its write
      std::uint64_t version = 0;
      bool writing = false;
    };
    std::vector<Router> routers(2 + uniform(4));
    for (std::size_t i = 0; i < routers.size(); ++i) {
      routers[i].name = std::to_string(i);
      // Any two differ by no more than the skew.
      routers[i].clock = static_cast<std::int64_t>(uniform(config.clock_skew_ms + 1));
    }
    QuotaLease stored;
    std::uint64_t version = 0;
    double most = 0;
    for (std::uint64_t now = 100000; now < 160000; now += 10) {
      for (Router& router : routers) {
        const std::uint64_t local = now + static_cast<std::uint64_t>(router.clock);
        if (uniform(3000) == 0) {
          router.dead = !router.dead;
          router.writing = false;
          if (router.dead) router.usable = 0;
        }
        if (router.dead) continue;
        if (router.writing) {
          if (uniform(4) == 0) continue;  // slow
          router.writing = false;
          if (uniform(10) == 0) continue;           // lost on the way there
          if (router.version != version) continue;  // somebody else was faster
          stored = router.read;
          ++version;
          if (uniform(10) == 0) continue;  // lost on the way back: it does not know
          const auto grant = granted(router.read, router.name);
          router.usable = grant.share;
          router.until = grant.until_ms;
        } else if (local >= router.renews_at) {
          router.renews_at = local + 700 + uniform(600);
          if (uniform(20) == 0) router.renews_at += 5000;  // the store is out of reach
          const double in_use = local < router.until ? router.usable : 0;
          const double demand = uniform(3) == 0 ? 0 : static_cast<double>(uniform(2000)) / 1000;
          router.read = renew(stored, router.name, demand, in_use, local);
          router.version = version;
          router.writing = true;
        }
      }
      double sum = 0;
      for (const Router& router : routers) {
        const std::uint64_t local = now + static_cast<std::uint64_t>(router.clock);
        if (!router.dead && local < router.until) sum += router.usable;
      }
      ASSERT_LE(sum, 1 + 1e-9) << "seed " << seed << " at " << now;
      most = std::max(most, sum);
    }
    EXPECT_GT(most, 0.5) << "and it is used";
  }
}

}  // namespace
}  // namespace plimsoll::cluster
