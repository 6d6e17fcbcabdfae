#include "actors/history.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

LedgerRow row(Component component, const std::string& tenant, std::int64_t resident,
              MemoryKind kind = MemoryKind::anonymous) {
  LedgerRow row{};
  row.component = component;
  row.tenant = tenant;
  row.kind = kind;
  row.bytes = 10 * resident;
  row.resident_bytes = resident;
  return row;
}

HistorySample at(double seconds, std::uint64_t tokens) {
  HistorySample sample;
  sample.point.unix_seconds = seconds;
  sample.tokens_total = tokens;
  return sample;
}

NodeStatus node_with(std::uint32_t waiting, std::uint64_t tokens) {
  EngineStats stats;
  stats.waiting = waiting;
  stats.running = 1;
  stats.generated_tokens_total = tokens;
  stats.prompt_tokens_total = 5;
  NodeStatus node;
  node.models = {{"m", stats}};
  return node;
}

TEST(TakeSample, SumsWhatIsThereByOwner) {
  MemoryReport report;
  report.rows = {row(Component::kv, "a", 5),
                 row(Component::kv, "b", 7),
                 row(Component::kv, "shared", 100),
                 row(Component::rpc, "a", 4),
                 row(Component::weights, "shared", 1000, MemoryKind::mapped),
                 row(Component::rpc, "idle", 0)};
  report.unattributed_bytes = -3;
  const auto point = take_sample(1, {}, report, {}).point;
  EXPECT_EQ(point.components[static_cast<std::size_t>(Component::kv)], 112U);
  EXPECT_EQ(point.components[static_cast<std::size_t>(Component::weights)], 0U);
  EXPECT_EQ(point.mapped_bytes, 1000U);
  EXPECT_EQ(point.unattributed_bytes, 0U) << "negative: more is charged than the kernel sees";
  const std::vector<std::pair<std::string, std::uint64_t>> tenants = {{"a", 9}, {"b", 7}};
  EXPECT_EQ(point.tenants, tenants);
}

NodeCacheAnswer cache_with(const std::string& tenant, storage::CacheKind kind, std::uint64_t bytes,
                           std::uint64_t hits, std::uint64_t misses) {
  CacheRow row;
  row.tenant = tenant;
  row.kind = kind;
  row.counts.bytes = bytes;
  row.counts.hits_total = hits;
  row.counts.misses_total = misses;
  NodeCacheAnswer cache;
  cache.answer.report.rows = {row};
  return cache;
}

TEST(TakeSample, SumsTheCachesOnDiskOfAllNodes) {
  using storage::CacheKind;
  const auto sample = take_sample(
      1, {}, MemoryReport(), {},
      {cache_with("a", CacheKind::prefix, 5, 1, 2), cache_with("b", CacheKind::prefix, 7, 3, 4),
       cache_with("a", CacheKind::tokens, 9, 0, 0)});
  EXPECT_EQ(sample.point.disk_bytes, (std::array<std::uint64_t, 3>{12, 0, 9}));
  const std::vector<std::pair<std::string, std::uint64_t>> tenants = {{"a", 14}, {"b", 7}};
  EXPECT_EQ(sample.point.disk_tenants, tenants);
  EXPECT_EQ(sample.lookups[0].hits, 4U);
  EXPECT_EQ(sample.lookups[0].misses, 6U);
}

TEST(History, HitRatesAreOfWhatWasLookedForSinceThePointBefore) {
  Ledger ledger;
  History history(ledger);
  const auto add = [&](std::uint64_t hits, std::uint64_t misses) {
    HistorySample sample;
    sample.lookups[0] = {hits, misses};
    history.add(sample);
    return history.after(0).back().disk_hit_percent[0];
  };
  EXPECT_EQ(add(100, 100), std::nullopt) << "there is none before";
  EXPECT_EQ(add(103, 101), 75.0);
  EXPECT_EQ(add(103, 101), std::nullopt);
  EXPECT_EQ(add(103, 104), 0.0);
  EXPECT_EQ(add(1, 0), std::nullopt) << "a node was started again";
}

TEST(TakeSample, ManyTenantsAreTheLargestAndTheRest) {
  MemoryReport report;
  for (int i = 1; i <= 20; ++i)
    report.rows.push_back(row(Component::kv, "t" + std::to_string(i), i));
  const auto point = take_sample(1, {}, report, {}).point;
  ASSERT_EQ(point.tenants.size(), History::most_tenants);
  EXPECT_EQ(point.tenants.front().first, "t20");
  EXPECT_EQ(point.other_tenants_bytes, 1U + 2 + 3 + 4);
}

TEST(TakeSample, TheNearestLimitAndTheWorstLevelCount) {
  ClusterStatus status;
  status.nodes = {node_with(3, 10), node_with(4, 20)};
  status.nodes[1].pressure = PressureLevel::orange;
  const auto sample = take_sample(
      1, status, fail(ErrorCode::not_found, ""),
      {{MemoryScope::Kind::machine, "", 500, 1000}, {MemoryScope::Kind::cgroup, "/g", 80, 100}});
  EXPECT_EQ(sample.point.limit_bytes, 100U);
  EXPECT_EQ(sample.point.used_bytes, 80U);
  EXPECT_EQ(sample.point.pressure, PressureLevel::orange);
  EXPECT_EQ(sample.point.waiting, 7U);
  EXPECT_EQ(sample.point.running, 2U);
  EXPECT_EQ(sample.tokens_total, 40U);
}

TEST(TakeSample, TheHostsStallsAreNotTheGroups) {
  MemoryReport report;
  report.pressure = MemoryPressure{.some_avg10 = 50};
  EXPECT_FALSE(take_sample(1, {}, report, {}).point.stall_percent);
  report.pressure->cgroup_scoped = true;
  EXPECT_EQ(take_sample(1, {}, report, {}).point.stall_percent, 50);
}

TEST(History, RatesComeFromDifferencesAndAreNeverNegative) {
  Ledger ledger;
  History history(ledger);
  history.add(at(100, 1000));  // since long ago: no rate
  history.add(at(105, 1050));
  history.add(at(110, 50));  // a node has gone
  history.add(at(110, 90));  // the clock stands
  history.add(at(120, 100));
  const auto points = history.after(0);
  ASSERT_EQ(points.size(), 5U);
  EXPECT_EQ(points[0].tokens_per_second, 0);
  EXPECT_EQ(points[1].tokens_per_second, 10);
  EXPECT_EQ(points[2].tokens_per_second, 0);
  EXPECT_EQ(points[3].tokens_per_second, 0);
  EXPECT_EQ(points[4].tokens_per_second, 1);
}

TEST(History, KeepsTheLastOnesAndWhatTheyTakeIsCharged) {
  Ledger ledger;
  auto& account = ledger.account(Component::runtime, "", shared_tenant);
  {
    History history(ledger, 3);
    auto large = at(0, 0);
    large.point.tenants = {{std::string(500, 'x'), 1}};
    history.add(large);
    const auto with_large = account.bytes();
    EXPECT_GT(with_large, 500);
    for (int i = 1; i <= 9; ++i) history.add(at(i, 0));
    EXPECT_LT(account.bytes(), 3 * with_large - 1000);
    const auto points = history.after(0);
    ASSERT_EQ(points.size(), 3U);
    EXPECT_EQ(points.front().id, 8U);
    EXPECT_EQ(history.after(9).size(), 1U);
    EXPECT_TRUE(history.after(10).empty());
    EXPECT_TRUE(history.after(~std::uint64_t{0}).empty());
  }
  EXPECT_EQ(account.bytes(), 0);
}

TEST(HistoryThread, SamplesAtOnceAndEndsWithoutWaiting) {
  std::atomic<int> samples{0};
  {
    const HistoryThread sampler(std::chrono::hours(1), [&] { ++samples; });
  }
  EXPECT_LE(samples, 1);
  std::mutex mutex;
  std::condition_variable changed;
  const HistoryThread sampler(std::chrono::milliseconds(1), [&] {
    const std::lock_guard lock(mutex);
    ++samples;
    changed.notify_one();
  });
  std::unique_lock lock(mutex);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(30), [&] { return samples >= 4; }));
}

}  // namespace
}  // namespace plimsoll
