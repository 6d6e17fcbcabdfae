// Random arrivals, lengths, cancels, credits and pool sizes. Whatever the engine does meanwhile, a
// sequence's tokens are those it would have generated alone, and nothing is left behind.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/engine/loop/engine_harness.h"

namespace plimsoll::testing {
namespace {

struct Expected {
  SequenceRequest request;
  std::vector<TokenId> tokens;  // alone and to the end
  bool cancelled = false;
};

class RandomUse : public ::testing::TestWithParam<std::uint32_t> {};

SequenceRequest random_request(std::uint64_t id, std::mt19937& random, std::uint32_t most_tokens) {
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  const char* tenants[] = {"alice", "bob", "carol"};
  // Beginnings are few, so that sequences share them.
  auto prompt = make_prompt(below(5) * 16, below(2));
  const auto rest = make_prompt(1 + below(40), random());
  prompt.insert(prompt.end(), rest.begin(), rest.end());
  prompt.resize(std::min<std::size_t>(prompt.size(), most_tokens - 1));
  const auto room = static_cast<std::uint32_t>(most_tokens - prompt.size());
  auto request =
      make_request(id, std::move(prompt), 1 + below(std::min(room, 60U)), tenants[below(3)]);
  if (below(3) == 0) request.sharing_group = "friends";
  request.sampling.temperature = below(3) == 0 ? 0.0F : 0.8F;
  if (below(3) == 0) request.sampling.top_k = 5;
  if (below(3) == 0) request.sampling.top_p = 0.9F;
  if (below(3) == 0) request.sampling.frequency_penalty = 0.5F;
  if (below(4) == 0) request.stop_tokens = {3, 7};
  if (below(4) == 0) request.prompt_logprobs = true;
  if (request.prompt_logprobs && below(4) == 0) request.max_new_tokens = 0;
  return request;
}

TEST_P(RandomUse, EverySequenceSaysWhatItWouldAlone) {
  std::mt19937 random(GetParam());
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  EngineConfig config;
  config.limits = {.tokens = 16 + below(64),
                   .sequences = 1 + below(8),
                   .logit_rows = 1 + below(12),
                   .context_tokens = 512};
  config.chunk_tokens = 1 + below(48);
  config.queue_length = 400;
  config.tenant_sequences = 400;
  config.prefix_sharing = below(4) != 0;
  const std::uint32_t rows = 4 + below(20);
  FakeModelOptions model;
  // A third of them have layers with a window.
  if (GetParam() % 3 == 1) model.window = 1 + below(70);
  // Half of the models repeat themselves, in steps of which little is their tokens'.
  if (GetParam() % 2 == 1) {
    model.habit = {.period = 5 + below(20), .percent = 60 + below(40)};
    config.step_cost = StepCost{.base = 0.01, .per_token = 0.0001};
  }
  const KvLayout layout = kv_layout(FakeModel(model).info(), config.block_tokens, config.kv_type);
  const auto demand = KvDemand::of(layout, std::min(config.chunk_tokens, config.limits.tokens));
  EngineHarness harness(config, demand.blocks(rows), model);

  std::map<std::uint64_t, Expected> all;
  for (std::uint64_t id = 1; id <= 120; ++id) {
    Expected expected;
    expected.request = random_request(id, random, rows * 16);
    auto& request = expected.request;
    expected.tokens = FakeModel::generate(request.prompt, request.sampling, request.max_new_tokens,
                                          harness.vocab(), request.stop_tokens, model.habit);
    if (below(3) == 0) request.credit = below(4);
    if (below(6) == 0) {
      // As after a failover: the beginning of the answer comes along.
      const auto known = below(static_cast<std::uint32_t>(expected.tokens.size()) + 1);
      request.resumed.assign(expected.tokens.begin(), expected.tokens.begin() + known);
      expected.tokens.erase(expected.tokens.begin(), expected.tokens.begin() + known);
    }
    const auto accepted = harness.engine().submit(request);
    ASSERT_TRUE(accepted) << to_string(accepted.error());
    all.emplace(id, std::move(expected));
    if (below(8) == 0) {
      const std::uint64_t victim = 1 + below(static_cast<std::uint32_t>(id));
      harness.engine().cancel(RequestId{victim});
      all[victim].cancelled = true;
    }
    if (below(3) == 0) harness.engine().add_credit(RequestId{1 + random() % id}, below(5));
    if (below(20) == 0) {
      harness.engine().set_pressure(static_cast<PressureLevel>(below(3)));
    }
    if (below(10) == 0) std::this_thread::sleep_for(std::chrono::microseconds(below(300)));
  }
  for (auto& [id, expected] : all) harness.engine().add_credit(RequestId{id}, 1000);

  std::uint32_t preemptions = 0;
  for (const auto& [id, expected] : all) {
    SCOPED_TRACE("sequence " + std::to_string(id));
    const Outcome outcome = harness.outcome(id);
    preemptions += outcome.usage.preemptions;
    if (outcome.finish == FinishReason::cancelled) {
      EXPECT_TRUE(expected.cancelled);
      ASSERT_LE(outcome.tokens.size(), expected.tokens.size());
      EXPECT_TRUE(
          std::equal(outcome.tokens.begin(), outcome.tokens.end(), expected.tokens.begin()));
      continue;
    }
    ASSERT_FALSE(outcome.error) << to_string(*outcome.error);
    EXPECT_EQ(outcome.tokens, expected.tokens);
    EXPECT_EQ(outcome.prompt.size(),
              expected.request.prompt_logprobs ? expected.request.prompt.size() : 0);
    const bool stopped =
        expected.tokens.size() + expected.request.resumed.size() < expected.request.max_new_tokens;
    EXPECT_EQ(outcome.finish, stopped ? FinishReason::stop : FinishReason::length);
  }
  RecordProperty("preemptions", static_cast<int>(preemptions));
  RecordProperty("drafts", static_cast<int>(harness.engine().stats().drafted_tokens_total));

  // Nothing is left: with the prefix tree emptied, every block is free and every account is zero.
  ASSERT_TRUE(harness.wait_idle());
  harness.engine().set_pressure(PressureLevel::red);
  ASSERT_TRUE(harness.wait_stats([&](const EngineStats& stats) {
    return stats.kv_blocks_used == 0 && harness.charged(Component::kv) == 0;
  }));
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.kv_blocks_cached, 0U);
  EXPECT_EQ(stats.waiting + stats.running + stats.paused, 0U);
  EXPECT_EQ(stats.preemptions_total, preemptions);
  EXPECT_EQ(stats.finished_total + stats.cancelled_total, 120U);
  for (const Component component :
       {Component::kv, Component::prefix_cache, Component::requests, Component::queues}) {
    EXPECT_EQ(harness.charged(component), 0) << to_string(component);
  }
  harness.stop();
  for (const LedgerRow& row : harness.ledger().snapshot()) EXPECT_EQ(row.bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomUse, ::testing::Range(0U, 60U));

}  // namespace
}  // namespace plimsoll::testing
