#include "cli/scorecard/memory_log.h"

#include <gtest/gtest.h>

namespace plimsoll::cli::scorecard {
namespace {

TEST(Gauge, AnIntegralOverUnevenSamples) {
  Gauge g;
  g.add(10, 4);
  g.add(11, 8);
  g.add(14, 2);
  EXPECT_EQ(g.first(), 4);
  EXPECT_EQ(g.last(), 2);
  EXPECT_EQ(g.peak(), 8);
  EXPECT_EQ(g.integral(), 4 * 1 + 8 * 3);
  EXPECT_EQ(g.mean(), 7);
  Gauge one;
  one.add(10, 4);
  EXPECT_EQ(one.mean(), 4);
}

client::MemoryRow row(const char* component, const char* tenant, const char* kind,
                      std::int64_t bytes) {
  client::MemoryRow row;
  row.component = component;
  row.tenant = tenant;
  row.kind = kind;
  row.bytes = bytes;
  return row;
}

TEST(MemoryLog, NodesThatHaveNotReportedAreNotEmpty) {
  MemoryLog log;
  log.add(0, {}, 0);
  log.add(1, {}, 600);
  log.add(2, {}, 600);
  EXPECT_EQ(log.nodes_used().first(), 600);
  EXPECT_EQ(log.nodes_used().mean(), 600);
}

TEST(MemoryLog, SumsRowsByComponentAndTenant) {
  MemoryLog log;
  client::Memory memory;
  memory.anonymous_bytes = 1000;
  memory.rss_bytes = 5000;
  memory.rows = {row("kv", "acme", "anonymous", 100), row("kv", "acme", "anonymous", 20),
                 row("kv", "", "anonymous", 7), row("prefix_cache", "acme", "anonymous", 3),
                 row("weights", "", "mapped", 9999)};
  log.add(5, memory, 800);
  memory.rows = {row("kv", "zeta", "anonymous", 40)};
  memory.anonymous_bytes = 3000;
  log.add(7, memory, 900);
  memory.rows.clear();
  memory.anonymous_bytes = 500;
  log.add(9, memory, 700);

  EXPECT_EQ(log.samples(), 3U);
  EXPECT_EQ(log.anonymous().first(), 1000);
  EXPECT_EQ(log.anonymous().peak(), 3000);
  EXPECT_EQ(log.anonymous().mean(), 2000);
  EXPECT_EQ(log.nodes_used().peak(), 900);
  EXPECT_EQ(log.components().at("kv").peak(), 127);
  EXPECT_EQ(log.components().at("kv").last(), 0);
  EXPECT_EQ(log.components().count("weights"), 0U) << "files are not anonymous memory";
  EXPECT_EQ(log.tenants().at("acme").kv.peak(), 120);
  EXPECT_EQ(log.tenants().at("acme").bytes.peak(), 123);
  EXPECT_EQ(log.tenants().at("acme").bytes.integral(), 123 * 2) << "it has nothing afterwards";
  EXPECT_EQ(log.tenants().at("zeta").kv.integral(), 40 * 2);
  EXPECT_EQ(log.tenants().at("zeta").kv.mean(), 20) << "it had nothing before";
  EXPECT_EQ(log.tenants().at("zeta").kv.first(), 0);
  EXPECT_EQ(log.components().at("kv").first(), 127);
  EXPECT_EQ(log.tenants().at("shared").bytes.first(), 7);
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
