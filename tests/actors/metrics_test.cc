#include "actors/metrics.h"

#include <gtest/gtest.h>

#include "engine/memory/ledger.h"

namespace plimsoll {
namespace {

struct Metered {
  Metrics metrics;
  Board board;
  ClusterStatus status;
  std::vector<MemoryScope> scopes;
  Result<MemoryReport> memory = fail(ErrorCode::not_found, "no kernel here");

  std::string text() const { return metrics.text({status, 0, memory, scopes, board}); }
  bool has(const std::string& line) const {
    return ("\n" + text()).find("\n" + line + "\n") != std::string::npos;
  }
};

TEST(Metrics, HeadroomAndGrowthTellHowLongThereIs) {
  Metered m;
  m.scopes = {{MemoryScope::Kind::cgroup, "/a", 300, 1000}, {MemoryScope::Kind::machine, "", 5, 9}};
  EXPECT_EQ(m.text().find("plimsoll_memory_seconds_to_limit"), std::string::npos)
      << "nothing grows, so there is no time left to tell";
  m.board.set_growth({.bytes_per_second = 7, .alarm_left_s = 100, .limit_left_s = {}});
  EXPECT_TRUE(m.has(R"(plimsoll_memory_used_bytes{scope="cgroup"} 300)")) << m.text();
  EXPECT_TRUE(m.has(R"(plimsoll_memory_limit_bytes{scope="cgroup"} 1000)"));
  EXPECT_TRUE(m.has(R"(plimsoll_memory_limit_bytes{scope="machine"} 9)"));
  EXPECT_TRUE(m.has("plimsoll_memory_growth_bytes_per_second 7"));
  EXPECT_TRUE(m.has(R"(plimsoll_memory_seconds_to_limit{slope="steady"} 100)"));
}

TEST(Metrics, StallsOfTheGroupAndOfTheHostAreApart) {
  Metered m;
  MemoryReport report;
  report.pressure = report.host_pressure = MemoryPressure{.some_avg10 = 50, .full_avg10 = 25};
  m.memory = report;
  EXPECT_EQ(m.text().find(R"(scope="cgroup")"), std::string::npos)
      << "the host's stalls are not the group's";
  report.pressure->cgroup_scoped = true;
  report.pressure->some_avg10 = 10;
  m.memory = report;
  EXPECT_TRUE(m.has(R"(plimsoll_memory_stall_ratio{kind="some",scope="cgroup"} 0.1)")) << m.text();
  EXPECT_TRUE(m.has(R"(plimsoll_memory_stall_ratio{kind="some",scope="host"} 0.5)"));
  EXPECT_TRUE(m.has(R"(plimsoll_memory_stall_ratio{kind="full",scope="host"} 0.25)"));
}

TEST(Metrics, NodesShowTheirMemoryAndLevel) {
  Metered m;
  NodeStatus node;
  node.name = "a";
  node.state = "lost";
  m.status.nodes.push_back(node);
  EXPECT_EQ(m.text().find("plimsoll_node_memory"), std::string::npos) << "none is known";
  m.status.nodes[0].memory_used_bytes = 8;
  m.status.nodes[0].memory_limit_bytes = 16;
  m.status.nodes[0].pressure = PressureLevel::orange;
  EXPECT_TRUE(m.has(R"(plimsoll_node_ready{node="a"} 0)"));
  EXPECT_TRUE(m.has(R"(plimsoll_node_memory_used_bytes{node="a"} 8)"));
  EXPECT_TRUE(m.has(R"(plimsoll_node_memory_limit_bytes{node="a"} 16)"));
  EXPECT_TRUE(m.has(R"(plimsoll_node_pressure_level{node="a"} 2)"));
}

TEST(Metrics, LedgersOfTheNodesThatReportAreThereToo) {
  Metered m;
  MemoryReport report;
  report.rows = {
      {Component::kv, "m@1", "acme", MemoryKind::anonymous, 7, 9, 7, Endpoint::chat_completions}};
  m.memory = report;
  report.rows[0].bytes = 5;
  m.board.set_memory("node-1", std::make_shared<const MemoryReport>(report), 1);
  const std::string row = R"(plimsoll_memory_bytes{component="kv",endpoint="chat_completions",)"
                          R"(kind="anonymous",model="m",node="%",tenant="acme",version="m@1"} )";
  const auto of = [&](const std::string& node) {
    return std::string(row).replace(row.find('%'), 1, node);
  };
  EXPECT_TRUE(m.has(of("local") + "7")) << m.text();
  EXPECT_TRUE(m.has(of("node-1") + "5")) << m.text();
}

TEST(Metrics, PhasesAreTold) {
  Metered m;
  MemoryReport report;
  report.phases = MemoryPhases{7200, 900, 500, 100, 2.5};
  m.memory = report;
  EXPECT_TRUE(m.has(R"(plimsoll_memory_phase_bytes{phase="cold_start_peak"} 900)")) << m.text();
  EXPECT_TRUE(m.has(R"(plimsoll_memory_phase_bytes{phase="steady"} 500)"));
  EXPECT_TRUE(m.has(R"(plimsoll_memory_phase_bytes{phase="burst"} 100)"));
  EXPECT_TRUE(m.has("plimsoll_memory_trend_bytes_per_second 2.5"));
}

TEST(Metrics, EventsAreCountedByKind) {
  Metered m;
  cluster::Event event;
  event.kind = cluster::EventKind::cancel;
  event.count = 3;
  m.board.events().add(event);
  EXPECT_TRUE(m.has(R"(plimsoll_events_total{kind="cancel"} 3)")) << m.text();
  EXPECT_TRUE(m.has(R"(plimsoll_events_total{kind="oom_kill"} 0)"))
      << "there from the beginning, or the first kill would be no increase";
}

TEST(Metrics, OnlyWhatGotNoTokenWasRefused) {
  Metered m;
  const auto end = [&](Error error, std::uint32_t tokens) {
    GenerationUsage usage;
    usage.completion_tokens = tokens;
    m.metrics.request_ended(Metrics::Operation::generate, TenantId("t"), "m", &error, usage);
  };
  end(Error(ErrorCode::resource_exhausted, "").with_reason("tenant_sequences"), 0);
  end({ErrorCode::unavailable, ""}, 0);
  end({ErrorCode::unavailable, ""}, 5);
  end({ErrorCode::cancelled, ""}, 0);
  m.metrics.request_ended(Metrics::Operation::generate, TenantId("t"), "m", nullptr, {});
  EXPECT_TRUE(m.has(R"(plimsoll_refusals_total{reason="tenant_sequences",tenant="t"} 1)"))
      << m.text();
  EXPECT_TRUE(m.has(R"(plimsoll_refusals_total{reason="unavailable",tenant="t"} 1)"));
  EXPECT_EQ(m.text().find(R"(reason="cancelled")"), std::string::npos);
}

TEST(Metrics, ReasonsAreBounded) {
  Metered m;
  for (int i = 0; i < 1000; ++i) {
    const auto error = Error(ErrorCode::internal, "").with_reason("r" + std::to_string(i));
    m.metrics.request_ended(Metrics::Operation::embed, TenantId("t"), "m", &error, {});
  }
  EXPECT_TRUE(m.has(R"(plimsoll_refusals_total{reason="other",tenant="t"} 936)")) << m.text();
}

}  // namespace
}  // namespace plimsoll
