// A run against a gateway with a Frontend that has no model.
#include "cli/scorecard/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "actors/gateway/rpc_gateway.h"
#include "cli/scorecard/quality.h"
#include "tests/actors/gateway/fake_administration.h"
#include "tests/actors/gateway/fake_frontend.h"

namespace plimsoll::cli::scorecard {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    frontend_.administrator = &administration_;
    RpcConfig config;
    config.listen.port = 0;
    auto started = RpcGateway::start(config, frontend_, ledger_);
    ASSERT_TRUE(started) << started.error().message;
    gateway_ = std::move(*started);
    options_.server.addresses = {"127.0.0.1:" + std::to_string(gateway_->port())};
    options_.model.name = "fake";
    options_.model.context_tokens = 4096;
    options_.model.vocabulary_tokens = 1000;
    options_.embedding_model = options_.model;
    options_.seed = 3;
    options_.requests = 20;
    options_.objectives = {60, 60};

    mix_.arrivals.kind = Arrivals::Kind::uniform;
    mix_.arrivals.rate = 500;
    mix_.traffic.resize(1);
    mix_.traffic[0].prompt.median = 9;
    mix_.traffic[0].output.median = 5;
    mix_.traffic[0].tenants.count = 3;
  }

  Measured run_mix(std::stop_token stop = {}) {
    MixSource source(mix_, options_.seed);
    auto measured = run(source, options_, std::move(stop));
    if (!measured) throw std::runtime_error(measured.error().message);
    return std::move(*measured);
  }

  Ledger ledger_;
  FakeAdministration administration_;
  FakeFrontend frontend_;
  std::unique_ptr<RpcGateway> gateway_;
  RunOptions options_;
  Mix mix_;
};

TEST_F(RunTest, SendsWhatTheSourceSaysAndCountsIt) {
  const auto measured = run_mix();
  const auto& counts = measured.tally.all().counts;
  EXPECT_EQ(counts.finished, 20U);
  EXPECT_EQ(counts.good, 20U);
  EXPECT_EQ(counts.generated_tokens, 100U);
  EXPECT_EQ(measured.tally.all().latency.ttft.count(), 20U);
  EXPECT_EQ(measured.tally.all().latency.itl.count(), 80U) << "five tokens have four waits";
  EXPECT_EQ(measured.tally.tenants().size(), 3U);
  EXPECT_GE(measured.seconds, 20 / 500.0);
  EXPECT_GE(measured.memory.samples(), 2U) << "before and after";
  EXPECT_GT(measured.memory.rss().peak(), 0);

  // The tokens are those of the same stream.
  std::set<std::vector<std::int32_t>> expected;
  MixSource source(mix_, options_.seed);
  for (int i = 0; i < 20; ++i) expected.insert(prompt_of(**source.next(), options_.seed, 1000));
  std::set<std::vector<std::int32_t>> sent;
  for (const auto& request : frontend_.requests()) {
    const auto& tokens = std::get<std::vector<TokenId>>(request.input);
    sent.emplace(tokens.begin(), tokens.end());
    EXPECT_EQ(request.max_tokens, 5U);
    EXPECT_TRUE(request.ignore_eos);
  }
  EXPECT_EQ(sent, expected);
  EXPECT_EQ(run_mix().fingerprint, measured.fingerprint);
}

TEST_F(RunTest, NothingStartsAfterTheDuration) {
  options_.requests = 0;
  options_.duration_s = 0.05;
  EXPECT_EQ(run_mix().tally.all().counts.sent, 25U);
}

TEST_F(RunTest, ALimitOfOpenRequestsIsSaidAndNotWaitedFor) {
  options_.open = 1;
  frontend_.token_delay_us = 50'000;
  const auto measured = run_mix();
  EXPECT_EQ(measured.tally.all().counts.sent + measured.tally.not_sent(), 20U);
  EXPECT_GT(measured.tally.not_sent(), 0U);
  EXPECT_GT(measured.tally.all().counts.finished, 0U);
}

TEST_F(RunTest, RefusalsAreCountedByReasonAndNotTriedAgain) {
  options_.model.name = "overloaded";
  const auto refused = run_mix();
  EXPECT_EQ(refused.tally.all().counts.refused, 20U);
  EXPECT_THAT(refused.tally.refusals(), ElementsAre(Pair("overloaded", 20)));
  EXPECT_EQ(frontend_.requests().size(), 20U);
  options_.model.name = "busy";
  EXPECT_THAT(run_mix().tally.refusals(), ElementsAre(Pair("resource_exhausted", 20)));
  options_.model.name = "broken";
  const auto broken = run_mix();
  EXPECT_EQ(broken.tally.all().counts.broken, 20U);
  EXPECT_THAT(broken.tally.refusals(), ElementsAre(Pair("unavailable", 20)));
}

TEST_F(RunTest, Embeds) {
  mix_.traffic[0].embed = true;
  const auto measured = run_mix();
  EXPECT_EQ(measured.tally.all().counts.finished, 20U);
  EXPECT_EQ(measured.tally.all().counts.prompt_tokens, 20U) << "the fake one counts texts";
}

TEST_F(RunTest, StopCancelsWhatIsOpen) {
  frontend_.token_delay_us = 1000;
  mix_.traffic[0].output.median = 4000;
  std::stop_source stop;
  std::jthread stopper([&] {
    while (frontend_.running < 3) std::this_thread::yield();
    stop.request_stop();
  });
  const auto measured = run_mix(stop.get_token());
  EXPECT_EQ(measured.tally.all().counts.finished, 0U);
  EXPECT_GE(measured.tally.all().counts.sent, 3U);
}

TEST_F(RunTest, PromptsAreCutToTheContext) {
  options_.model.context_tokens = 8;
  const auto measured = run_mix();
  EXPECT_EQ(measured.cut, 20U);
  EXPECT_EQ(std::get<std::vector<TokenId>>(frontend_.requests()[0].input).size(), 4U);
}

TEST_F(RunTest, NeedsTheOperatorsRightsForTheMemoryOnly) {
  options_.server.api_key = "tenant";
  EXPECT_THROW(run_mix(), client::Error);
  options_.memory = false;
  EXPECT_EQ(run_mix().tally.all().counts.finished, 20U);
}

TEST_F(RunTest, EachKeyIsTriedBeforeTheRun) {
  options_.keys = {{"a", "tenant"}, {"b", "wrong"}};
  EXPECT_THROW(run_mix(), client::Error);
  EXPECT_TRUE(frontend_.requests().empty());
  options_.keys[1].api_key = "other";
  EXPECT_EQ(run_mix().tally.all().counts.finished, 20U);
}

TEST_F(RunTest, AnErrorOfTheSourceEndsIt) {
  struct Broken final : Source {
    Result<std::optional<Request>> next() override {
      return fail(ErrorCode::malformed, "t:7: bad");
    }
  } source;
  const auto measured = run(source, options_, {});
  ASSERT_FALSE(measured);
  EXPECT_EQ(measured.error().message, "t:7: bad");
}

TEST_F(RunTest, Quality) {
  client::Client client(options_.server);
  const auto quality = measure_quality(client, "fake");
  EXPECT_EQ(quality.tasks.size(), 16U);
  EXPECT_THAT(quality.tasks[0].tokens,
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  EXPECT_EQ(agreement(quality.tasks, measure_quality(client, "fake").tasks), 1);
  for (const auto& request : frontend_.requests()) EXPECT_EQ(request.sampling.temperature, 0);
}

TEST(Usage, IsTheDifferenceOfTwoLooks) {
  client::TenantUsage before;
  before.tenant = "acme";
  before.requests = 5;
  before.generated_tokens = 50;
  before.kv_byte_seconds = 100;
  before.rejections = {{"quota", 2}, {"queue", 1}};
  auto after = before;
  after.requests = 8;
  after.generated_tokens = 90;
  after.kv_byte_seconds = 160;
  after.rejections["quota"] = 6;
  client::TenantUsage idle;
  idle.tenant = "idle";
  idle.requests = 9;
  client::TenantUsage fresh;
  fresh.tenant = "new";
  fresh.requests = 1;
  const auto used = difference({before, idle}, {after, idle, fresh});
  ASSERT_EQ(used.size(), 2U);
  EXPECT_EQ(used[0].requests, 3U);
  EXPECT_EQ(used[0].generated_tokens, 40U);
  EXPECT_EQ(used[0].kv_byte_seconds, 60);
  EXPECT_THAT(used[0].rejections, ElementsAre(Pair("quota", 4)));
  EXPECT_EQ(used[1].tenant, "new");
}

}  // namespace
}  // namespace plimsoll::cli::scorecard
