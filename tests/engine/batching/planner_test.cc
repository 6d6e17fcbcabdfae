#include "engine/batching/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace plimsoll {
namespace {

using State = PlannerSequence::State;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint32_t block_tokens = 16;

std::uint32_t blocks_for(std::uint32_t tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

PlannerSequence sequence(std::uint32_t tenant, State state, std::uint32_t computed,
                         std::uint32_t target) {
  PlannerSequence s;
  s.tenant = tenant;
  s.state = state;
  s.computed = computed;
  s.target = target;
  s.rows = s.blocks = s.freeable = state == State::waiting ? 0 : blocks_for(computed);
  return s;
}
PlannerSequence waiting(std::uint32_t tenant, std::uint32_t target) {
  return sequence(tenant, State::waiting, 0, target);
}
PlannerSequence prefilling(std::uint32_t tenant, std::uint32_t computed, std::uint32_t target) {
  return sequence(tenant, State::running, computed, target);
}
PlannerSequence decoding(std::uint32_t tenant, std::uint32_t known) {
  return sequence(tenant, State::running, known - 1, known);
}
PlannerSequence paused(std::uint32_t tenant, std::uint32_t known) {
  return sequence(tenant, State::paused, known - 1, known);
}

class PlannerTest : public testing::Test {
 protected:
  // Of `capacity` blocks, those that no sequence holds are available.
  const StepPlan& plan(const std::vector<PlannerSequence>& sequences, std::uint32_t capacity) {
    std::uint32_t held = 0;
    for (const auto& s : set(sequences)) held += s.blocks;
    EXPECT_LE(held, capacity);
    return planner_.plan(sequences_, capacity - held, capacity);
  }
  const std::vector<PlannerSequence>& set(const std::vector<PlannerSequence>& sequences) {
    sequences_ = sequences;
    for (const auto& s : sequences_) {
      planner_.activate(s.tenant, s.tenant < weights_.size() ? weights_[s.tenant] : 1.0,
                        s.tenant < guaranteed_.size() ? guaranteed_[s.tenant] : 0);
    }
    return sequences_;
  }
  static std::vector<std::pair<std::uint32_t, std::uint32_t>> tokens(const StepPlan& plan) {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> result;
    for (const auto& chunk : plan.chunks) result.emplace_back(chunk.sequence, chunk.tokens);
    return result;
  }

  Planner planner_{{.tokens = 64, .sequences = 4, .logit_rows = 4, .chunk_tokens = 32},
                   {block_tokens}};
  std::vector<PlannerSequence> sequences_;
  std::vector<double> weights_;            // of tenants; 1 of others
  std::vector<std::uint32_t> guaranteed_;  // of tenants, blocks; 0 of others
};

using Pair = std::pair<std::uint32_t, std::uint32_t>;

// Of what it will take, not only of what it takes now.
PlannerSequence reserving(PlannerSequence s, std::uint32_t blocks) {
  s.reserve = blocks;
  return s;
}
PlannerSequence of_class(PlannerSequence s, CapacityClass c) {
  s.capacity_class = c;
  return s;
}

TEST_F(PlannerTest, StartsOnlyWhatFitsAtItsEndBesideWhatRuns) {
  // 20 blocks: the running one holds 2 of the 10 it is expected to take.
  const auto runs = reserving(decoding(0, 20), 10);
  const auto fits = plan({runs, reserving(waiting(0, 16), 9)}, 20);
  EXPECT_THAT(tokens(fits), ElementsAre(Pair{0, 1}, Pair{1, 16}));
  const auto not_yet = plan({runs, reserving(waiting(0, 16), 10)}, 20);
  EXPECT_THAT(tokens(not_yet), ElementsAre(Pair{0, 1}));
  // What starts in the same step counts too.
  const auto two = plan({reserving(waiting(0, 16), 9), reserving(waiting(0, 16), 9)}, 18);
  EXPECT_THAT(tokens(two), ElementsAre(Pair{0, 16}));
  // What nobody could ever hold starts alone.
  EXPECT_THAT(tokens(plan({reserving(waiting(0, 16), 30)}, 20)), ElementsAre(Pair{0, 16}));
}

TEST_F(PlannerTest, WhatIsReservedBeyondAShareGivesWay) {
  // Tenant 0 holds 6 of 20 blocks, and its two are expected to take 18: nothing is left for tenant
  // 1, which is within its share.
  const auto first = reserving(decoding(0, 16 * 3 - 2), 9);
  const auto& planned = plan({first, first, reserving(waiting(1, 32), 4)}, 20);
  EXPECT_THAT(planned.preempted, ElementsAre(1));
  EXPECT_THAT(tokens(planned), testing::Contains(Pair{2, 32}));
}

TEST_F(PlannerTest, AClassLeavesTheOthersTheirHeadroom) {
  auto limits = planner_.limits();
  limits.headroom[static_cast<int>(CapacityClass::low_latency)] = 6;
  planner_.set_limits(limits);
  const auto batch = of_class(decoding(0, 16 * 10), CapacityClass::batch);  // 10 of 20 blocks
  const auto more = of_class(waiting(0, 16 * 4), CapacityClass::batch);
  const auto quick = waiting(1, 16 * 4);
  // 10 are free, of which 6 are kept: four and the growth of one do not fit.
  EXPECT_THAT(tokens(plan({batch, more}, 20)), ElementsAre(Pair{0, 1}));
  // Whoever waits for its class does not hold up another.
  EXPECT_THAT(tokens(plan({batch, more, quick}, 20)), ElementsAre(Pair{0, 1}, Pair{2, 32}));
  // What the class holds itself is no longer kept.
  const auto running = decoding(1, 16 * 4);
  const auto small = of_class(waiting(0, 16 * 1), CapacityClass::batch);
  EXPECT_THAT(tokens(plan({batch, running, small}, 20)),
              ElementsAre(Pair{0, 1}, Pair{1, 1}, Pair{2, 16}));
}

TEST_F(PlannerTest, AGuaranteeIsKeptFreeAndNotTakenAway) {
  guaranteed_ = {0, 8};
  const auto greedy = decoding(0, 16 * 10);
  const auto more = waiting(0, 16 * 3);
  planner_.activate(1, 1.0, 8);
  planner_.deactivate(1);
  EXPECT_THAT(tokens(plan({greedy, more}, 20)), ElementsAre(Pair{0, 1})) << "2 are left, not 10";
  // It holds more for its weight than the other, but no more than it has a right to.
  const auto mine = decoding(1, 16 * 8 - 2);
  weights_ = {4.0, 0.1};
  const auto victim = planner_.shed_victim(set({greedy, decoding(0, 16 * 2), mine}), 10, false);
  ASSERT_TRUE(victim);
  EXPECT_EQ(victim->sequence, 1U);
}

TEST_F(PlannerTest, WhereNothingIsAdmittedAGuaranteeIs) {
  guaranteed_ = {0, 8};
  auto limits = planner_.limits();
  limits.admits = false;
  planner_.set_limits(limits);
  const auto runs = decoding(0, 20);
  EXPECT_THAT(tokens(plan({runs, waiting(0, 16), waiting(1, 16 * 8)}, 40)),
              ElementsAre(Pair{0, 1}, Pair{2, 32}));
  EXPECT_THAT(tokens(plan({runs, waiting(1, 16 * 9)}, 40)), ElementsAre(Pair{0, 1}));
}

TEST_F(PlannerTest, DecodesGoBeforePrefills) {
  const auto& result = plan({prefilling(0, 0, 100), decoding(0, 20), decoding(0, 40)}, 100);
  EXPECT_THAT(tokens(result), ElementsAre(Pair{1, 1}, Pair{2, 1}, Pair{0, 32}));
}

TEST_F(PlannerTest, KeepsToEveryCap) {
  // Tokens: 64 = 32 + 32. The third gets none.
  EXPECT_THAT(tokens(plan({waiting(0, 50), waiting(0, 50), waiting(0, 50)}, 100)),
              ElementsAre(Pair{0, 32}, Pair{1, 32}));
  // Sequences: 4.
  EXPECT_EQ(plan({waiting(0, 2), waiting(0, 2), waiting(0, 2), waiting(0, 2), waiting(0, 2)}, 100)
                .chunks.size(),
            4U);
  // Logit rows.
  planner_.set_limits({.tokens = 64, .sequences = 4, .logit_rows = 1, .chunk_tokens = 32});
  EXPECT_THAT(tokens(plan({decoding(0, 20), decoding(0, 20)}, 100)), ElementsAre(Pair{0, 1}));
  // A prefill goes on without its last token when there is no row for it.
  EXPECT_THAT(tokens(plan({decoding(0, 20), prefilling(0, 16, 20)}, 100)),
              ElementsAre(Pair{0, 1}, Pair{1, 3}));
}

TEST_F(PlannerTest, GivesALogitRowOnlyForTheLastToken) {
  const auto& result = plan({prefilling(0, 0, 33), prefilling(0, 10, 20)}, 100);
  ASSERT_EQ(result.chunks.size(), 2U);
  EXPECT_EQ(result.chunks[0].logit_rows, 0U);
  EXPECT_EQ(result.chunks[1].logit_rows, 1U);
}

TEST_F(PlannerTest, ServesATenantInOrderOfArrival) {
  EXPECT_THAT(tokens(plan({waiting(0, 60), waiting(0, 4)}, 100)),
              ElementsAre(Pair{0, 32}, Pair{1, 4}));
}

TEST_F(PlannerTest, TheLeastServedTenantGoesFirst) {
  planner_.activate(0);
  planner_.activate(1);
  planner_.serve(0, 100);
  EXPECT_THAT(tokens(plan({waiting(0, 60), waiting(0, 60), waiting(1, 60), waiting(1, 60)}, 100)),
              ElementsAre(Pair{2, 32}, Pair{3, 32}));
  planner_.serve(1, 100);
  // Equal now: they take turns within the step.
  EXPECT_THAT(tokens(plan({waiting(0, 60), waiting(0, 60), waiting(1, 60), waiting(1, 60)}, 100)),
              ElementsAre(Pair{0, 32}, Pair{2, 32}));
}

TEST_F(PlannerTest, IdlenessSavesNothingUp) {
  planner_.activate(0);
  planner_.activate(1);
  planner_.deactivate(1);
  planner_.serve(0, 1000);
  planner_.activate(1);
  EXPECT_EQ(planner_.served(1), 1000U);
  // Nor does it forgive.
  planner_.serve(1, 500);
  planner_.deactivate(1);
  planner_.activate(1);
  EXPECT_EQ(planner_.served(1), 1500U);
  // With nobody active, the last to leave sets the level for a newcomer.
  planner_.deactivate(0);
  planner_.deactivate(1);
  planner_.activate(2);
  EXPECT_EQ(planner_.served(2), 1500U);
}

TEST_F(PlannerTest, ADecodeTakesABlockFromAPausedSequenceFirst) {
  // Sequence 0 needs a third block, and none is free.
  const auto& result = plan({decoding(0, 33), decoding(1, 60), paused(1, 20)}, 8);
  EXPECT_THAT(result.preempted, ElementsAre(2));
  EXPECT_THAT(tokens(result), ElementsAre(Pair{0, 1}, Pair{1, 1}));
}

TEST_F(PlannerTest, ThenFromTheYoungestOfWhoHoldsMost) {
  const auto& result =
      plan({decoding(0, 33), decoding(1, 30), decoding(1, 30), decoding(2, 30)}, 8);
  EXPECT_THAT(result.preempted, ElementsAre(2));
  EXPECT_THAT(tokens(result), testing::UnorderedElementsAre(Pair{0, 1}, Pair{1, 1}, Pair{3, 1}));
}

TEST_F(PlannerTest, TheOldestIsNeverPreempted) {
  // It holds most by far, and needs one more.
  const auto& result = plan({decoding(0, 97), decoding(1, 10), decoding(2, 10)}, 8);
  EXPECT_THAT(result.preempted, ElementsAre(1));
  EXPECT_THAT(tokens(result), ElementsAre(Pair{0, 1}, Pair{2, 1}));
  // A younger one that needs a block gives way itself.
  const auto& other = plan({decoding(0, 90), decoding(1, 33)}, 8);
  EXPECT_THAT(other.preempted, ElementsAre(1));
  EXPECT_THAT(tokens(other), ElementsAre(Pair{0, 1}));
}

TEST_F(PlannerTest, TheOldestGoesOnThoughNothingFits) {
  const auto& result = plan({prefilling(0, 32, 100), prefilling(1, 64, 100)}, 6);
  EXPECT_THAT(result.preempted, ElementsAre(1));
  EXPECT_THAT(tokens(result), ElementsAre(Pair{0, 32}));
}

TEST_F(PlannerTest, AdmitsOnlyWhatFitsWhole) {
  EXPECT_THAT(tokens(plan({decoding(0, 20), waiting(0, 60)}, 6)), ElementsAre(Pair{0, 1}));
  // 2 held, 4 for the prompt, and one by which the first may grow.
  EXPECT_THAT(tokens(plan({decoding(0, 20), waiting(0, 60)}, 7)),
              ElementsAre(Pair{0, 1}, Pair{1, 32}));
  // What a running prefill has still to take is not given away.
  EXPECT_THAT(tokens(plan({prefilling(0, 16, 96), waiting(0, 10)}, 7)), ElementsAre(Pair{0, 32}));
}

TEST_F(PlannerTest, NobodyIsAdmittedPastOneThatDoesNotFit) {
  planner_.activate(0);
  planner_.activate(1);
  planner_.serve(1, 10);
  // Tenant 0 is next, and its prompt wants more than half the pool: it waits, and so does tenant 1.
  const auto& result = plan({decoding(1, 20), waiting(0, 100), waiting(1, 2)}, 8);
  EXPECT_THAT(result.preempted, IsEmpty());
  EXPECT_THAT(tokens(result), ElementsAre(Pair{0, 1}));
}

TEST_F(PlannerTest, ATenantWithinItsShareTakesAPlaceFromOneOverIts) {
  const auto& result = plan(
      {decoding(0, 20), decoding(0, 20), decoding(0, 20), decoding(0, 20), waiting(1, 10)}, 100);
  EXPECT_THAT(result.preempted, ElementsAre(3));
  EXPECT_THAT(tokens(result), ElementsAre(Pair{0, 1}, Pair{1, 1}, Pair{2, 1}, Pair{4, 10}));
  // At two places each, nobody is over.
  const auto& even = plan(
      {decoding(0, 20), decoding(0, 20), decoding(1, 20), decoding(1, 20), waiting(1, 10)}, 100);
  EXPECT_THAT(even.preempted, IsEmpty());
}

TEST_F(PlannerTest, AHeavierTenantIsDueMorePlaces) {
  weights_ = {1, 3};
  const auto& result = plan(
      {decoding(0, 20), decoding(0, 20), decoding(1, 20), decoding(1, 20), waiting(1, 10)}, 100);
  EXPECT_THAT(result.preempted, ElementsAre(1));
  weights_ = {3, 1};
  EXPECT_THAT(
      plan({decoding(0, 20), decoding(0, 20), decoding(0, 20), decoding(1, 20), waiting(1, 10)},
           100)
          .preempted,
      IsEmpty());
}

TEST_F(PlannerTest, ATenantWithinItsShareTakesBlocksFromOneOverIts) {
  const auto& result = plan({decoding(0, 60), decoding(0, 60), waiting(1, 10)}, 8);
  EXPECT_THAT(result.preempted, ElementsAre(1));
  EXPECT_THAT(tokens(result), ElementsAre(Pair{0, 1}, Pair{2, 10}));
  // One that wants more than its share takes nothing.
  EXPECT_THAT(plan({decoding(0, 60), decoding(0, 60), waiting(1, 70)}, 8).preempted, IsEmpty());
}

TEST_F(PlannerTest, TakesNothingWhereItWouldNotBeEnough) {
  // The paused one's single block does not make room for four.
  const auto& result = plan({decoding(0, 60), paused(0, 10), waiting(0, 60)}, 6);
  EXPECT_THAT(result.preempted, IsEmpty());
}

TEST_F(PlannerTest, AWaitingOneGetsTheBlocksOfThePausedWhenNothingElseRuns) {
  const auto& result = plan({paused(0, 40), paused(1, 40), waiting(1, 50)}, 6);
  EXPECT_FALSE(result.preempted.empty());
  EXPECT_THAT(tokens(result), ElementsAre(Pair{2, 32}));
  EXPECT_THAT(plan({paused(0, 40), paused(1, 40)}, 6).chunks, IsEmpty());
}

TEST(PlannerFit, ScoresEndWhereTheirRowsEnd) {
  PlannerSequence s = prefilling(0, 0, 20);
  s.score_from = 0;
  s.score_until = 20;
  auto chunk = Planner::fit(s, 100, 8);
  EXPECT_EQ(chunk.tokens, 8U);
  EXPECT_EQ(chunk.logit_rows, 8U);
  s.computed = 16;
  chunk = Planner::fit(s, 100, 8);
  EXPECT_EQ(chunk.tokens, 4U);
  EXPECT_EQ(chunk.logit_rows, 4U);
  // Recomputing what is scored already needs no rows.
  s.computed = 0;
  s.score_from = 10;
  chunk = Planner::fit(s, 100, 4);
  EXPECT_EQ(chunk.tokens, 14U);
  EXPECT_EQ(chunk.logit_rows, 4U);
  // The prompt ends before what was generated.
  s.score_until = 12;
  chunk = Planner::fit(s, 100, 8);
  EXPECT_EQ(chunk.tokens, 12U);
  EXPECT_EQ(chunk.logit_rows, 2U);
  EXPECT_EQ(Planner::fit(s, 0, 8).tokens, 0U);
}

class PlannerDrafts : public testing::Test {
 protected:
  // Reading the weights takes as long as 20 tokens.
  static constexpr StepCost cost{.base = 0.01, .per_token = 0.0004, .per_row = 0.0001};

  PlannerDrafts() { planner_.set_cost(cost); }
  static PlannerSequence repeating(std::uint32_t tenant, double chance, std::uint32_t known = 8) {
    PlannerSequence s = decoding(tenant, known);
    s.reserve = 2;
    s.drafts = 7;
    s.draft_chance = chance;
    return s;
  }
  std::vector<std::uint32_t> drafts(const std::vector<PlannerSequence>& sequences,
                                    std::uint32_t available = 1000) {
    sequences_ = sequences;
    for (const auto& s : sequences_) planner_.activate(s.tenant);
    std::vector<std::uint32_t> result(sequences.size());
    const StepPlan& plan = planner_.plan(sequences_, available, 1000);
    for (const auto& chunk : plan.chunks) result[chunk.sequence] = chunk.drafts;
    return result;
  }

  PlannerLimits limits_{.tokens = 64, .sequences = 32, .logit_rows = 32, .chunk_tokens = 32};
  Planner planner_{limits_, {block_tokens}};
  std::vector<PlannerSequence> sequences_;
};

TEST_F(PlannerDrafts, AreAsLongAsTheyPay) {
  EXPECT_THAT(drafts({repeating(0, 1.0)}), ElementsAre(7));
  EXPECT_THAT(drafts({repeating(0, 0.5)}), ElementsAre(3));
  // A token takes 1/21 of a step; with a margin, its chance has to be over that.
  EXPECT_THAT(drafts({repeating(0, 0.06)}), ElementsAre(1));
  EXPECT_THAT(drafts({repeating(0, 0.05)}), ElementsAre(0));
  EXPECT_THAT(drafts({decoding(0, 8)}), ElementsAre(0));
}

TEST_F(PlannerDrafts, DoNotPayBeforeTheCostIsKnownOrWhereStepsComputeForMany) {
  std::vector<PlannerSequence> many(30, repeating(0, 0.7));
  EXPECT_THAT(drafts(many), testing::Each(0));
  many.resize(2);
  EXPECT_THAT(drafts(many), testing::Each(testing::Gt(0)));
  planner_.set_cost({.base = 0, .per_token = 0.01});  // from steps of one size alone
  EXPECT_THAT(drafts({repeating(0, 1.0)}), ElementsAre(0));
  planner_.set_cost({});
  EXPECT_THAT(drafts({repeating(0, 1.0)}), ElementsAre(0));
}

TEST_F(PlannerDrafts, TakeOnlyWhatTheStepHasLeft) {
  limits_.logit_rows = 5;
  planner_.set_limits(limits_);
  EXPECT_THAT(drafts({repeating(0, 1.0), repeating(0, 1.0)}), ElementsAre(3, 0));
  limits_.logit_rows = 32;
  limits_.tokens = 6;
  planner_.set_limits(limits_);
  EXPECT_THAT(drafts({repeating(0, 1.0)}), ElementsAre(5));
  // The prompt gets as much as without them.
  EXPECT_THAT(drafts({repeating(0, 1.0), prefilling(0, 0, 90)}), ElementsAre(0, 0));
  limits_.tokens = 64;
  limits_.decode_step_seconds = 0.0125;
  planner_.set_limits(limits_);
  EXPECT_THAT(drafts({repeating(0, 1.0)}), ElementsAre(7)) << "a step may take twice its decodes";
  planner_.set_cost({.base = 0.01, .per_token = 0.003});
  limits_.decode_step_seconds = 0.03;
  planner_.set_limits(limits_);
  EXPECT_THAT(drafts({repeating(0, 1.0)}), ElementsAre(5)) << "or as long as it may with prompts";
}

TEST_F(PlannerDrafts, TakeNoBlockThatIsNotReservedOrThatOthersMayWant) {
  EXPECT_THAT(drafts({repeating(0, 1.0, 14)}), ElementsAre(7));
  auto ends = repeating(0, 1.0, 14);
  ends.reserve = 1;
  EXPECT_THAT(drafts({ends}), ElementsAre(2));
  EXPECT_THAT(drafts({repeating(0, 1.0, 14)}, 1), ElementsAre(2));
  EXPECT_THAT(drafts({repeating(0, 1.0, 14)}, 2), ElementsAre(7));
}

TEST_F(PlannerDrafts, ProlongAStepWithOtherTenantsByAFifth) {
  const double step = cost.base + 2 * cost.added(7, 1, 1);
  const auto most = static_cast<std::uint32_t>(0.2 * step / cost.added(8, 1, 1));
  EXPECT_THAT(drafts({repeating(0, 1.0), decoding(1, 8)}), ElementsAre(most, 0));
  EXPECT_THAT(drafts({repeating(0, 1.0), decoding(0, 8)}), ElementsAre(7, 0));
}

TEST_F(PlannerDrafts, OfAGreedyTenantStandInNobodysWay) {
  planner_.set_cost({.base = 0.01, .per_token = 0.0004});
  drafts({repeating(0, 1.0), repeating(1, 1.0)});
  planner_.use(1, 9);
  EXPECT_THAT(drafts({repeating(0, 1.0), repeating(1, 1.0)})[1], 0);
  EXPECT_TRUE(planner_.greedy(1));
}

// A pool and sequences in numbers only, driven by the planner for many steps.
class Simulation {
 public:
  struct Job {
    std::uint32_t tenant, prompt, answer;
  };

  explicit Simulation(std::uint32_t seed) : random_(seed) {
    limits_ = {.tokens = 8 + below(100),
               .sequences = 1 + below(10),
               .logit_rows = 1 + below(10),
               .chunk_tokens = 1 + below(60)};
    capacity_ = 5 + below(30);
    planner_ = Planner(limits_, {block_tokens});
    if (below(2) == 0) planner_.set_cost({.base = 0.01, .per_token = 0.0005, .per_row = 0.0001});
  }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  void run() {
    std::uint32_t to_arrive = 80;
    int idle_steps = 0;
    std::uint64_t order = 0;
    for (int step = 0; to_arrive > 0 || !live_.empty(); ++step) {
      ASSERT_LT(step, 200'000) << "it does not end";
      while (to_arrive > 0 && below(4) == 0) {
        --to_arrive;
        const std::uint32_t most = capacity_ * block_tokens;
        const std::uint32_t prompt = 1 + below(most - 1);
        PlannerSequence s = waiting(below(4), prompt);
        s.order = order++;
        ends_[s.order] = prompt + below(std::min(most - prompt, 100U));
        s.reserve = blocks_for(prompt + below(ends_[s.order] - prompt + 1));
        if (count_[s.tenant]++ == 0) planner_.activate(s.tenant);
        live_.push_back(s);
      }
      // Clients stop reading and go on; now and then for long.
      for (auto& s : live_) {
        if (s.state == State::running && s.target - s.computed == 1 && below(40) == 0) {
          s.state = State::paused;
        } else if (s.state == State::paused && below(20) == 0) {
          s.state = State::running;
        }
      }
      std::uint32_t held = 0;
      for (auto& s : live_) {
        s.freeable = s.blocks;
        held += s.blocks;
        const std::uint32_t end = ends_[s.order];
        s.drafts = below(std::min(8U, s.target < end ? end - s.target + 1 : 1));
        s.draft_chance = below(11) / 10.0;
      }
      const StepPlan& plan = planner_.plan(live_, capacity_ - held, capacity_);
      const bool all_paused = std::all_of(live_.begin(), live_.end(),
                                          [](const auto& s) { return s.state == State::paused; });
      ASSERT_EQ(plan.chunks.empty(), all_paused);
      for (const std::uint32_t index : plan.preempted) {
        ASSERT_NE(live_[index].state, State::waiting);
        held -= live_[index].blocks;
        live_[index] = reset(live_[index]);
      }
      execute(plan, held);
      if (testing::Test::HasFatalFailure()) return;
      idle_steps += plan.chunks.empty();
    }
  }
  std::uint32_t drafted = 0;

 private:
  static PlannerSequence reset(const PlannerSequence& s) {
    PlannerSequence again = waiting(s.tenant, s.target);
    again.order = s.order;
    again.reserve = s.reserve;
    return again;
  }

  void execute(const StepPlan& plan, std::uint32_t held) {
    std::uint32_t tokens = 0, rows = 0;
    std::map<std::uint32_t, int> seen;
    for (const PlannedChunk& chunk : plan.chunks) {
      PlannerSequence& s = live_[chunk.sequence];
      ASSERT_EQ(seen[chunk.sequence]++, 0);
      ASSERT_FALSE(std::count(plan.preempted.begin(), plan.preempted.end(), chunk.sequence));
      ASSERT_NE(s.state, State::paused);
      ASSERT_GT(chunk.tokens, 0U);
      ASSERT_LE(chunk.tokens, limits_.chunk_tokens);
      ASSERT_LE(s.computed + chunk.tokens, s.target);
      if (s.computed + chunk.tokens == s.target) {
        ASSERT_EQ(chunk.logit_rows, 1U);
      }
      if (chunk.drafts > 0) {
        ASSERT_TRUE(Planner::decodes(s));
        ASSERT_LE(chunk.drafts, s.drafts);
      }
      const std::uint32_t end = s.computed + chunk.tokens + chunk.drafts;
      const std::uint32_t needed = std::max(s.blocks, blocks_for(end));
      // Drafts take no block that nobody reckoned with.
      ASSERT_LE(needed, std::max({s.blocks, s.reserve, blocks_for(s.target)}));
      tokens += chunk.tokens + chunk.drafts;
      rows += chunk.logit_rows + chunk.drafts;
      s.state = State::running;
      s.computed += chunk.tokens + below(chunk.drafts + 1);  // some of the drafts are right
      s.target = std::max(s.target, s.computed);
      planner_.serve(s.tenant, chunk.tokens);
      held += needed - s.blocks;
      s.rows = s.blocks = needed;
      drafted += chunk.drafts;
      if (s.computed == s.target) ++s.target;  // one more is known, to be computed next
    }
    ASSERT_LE(held, capacity_);
    ASSERT_LE(tokens, limits_.tokens);
    ASSERT_LE(rows, limits_.logit_rows);
    ASSERT_LE(plan.chunks.size(), limits_.sequences);
    std::erase_if(live_, [&](const PlannerSequence& s) {
      if (s.computed < ends_[s.order]) return false;
      if (--count_[s.tenant] == 0) planner_.deactivate(s.tenant);
      return true;
    });
  }

  std::mt19937 random_;
  PlannerLimits limits_;
  std::uint32_t capacity_ = 0;
  Planner planner_{{}, {block_tokens}};
  std::vector<PlannerSequence> live_;
  std::map<std::uint64_t, std::uint32_t> ends_;  // tokens at which a sequence is finished
  std::uint32_t count_[4] = {};
};

TEST(PlannerSimulation, EverySequenceEndsAndEveryPlanKeepsToTheCaps) {
  std::uint32_t drafted = 0;
  for (std::uint32_t seed = 0; seed < 80; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed);
    simulation.run();
    if (HasFatalFailure()) return;
    drafted += simulation.drafted;
  }
  EXPECT_GT(drafted, 1000U);
}

// Tenants, each with so many sequences at any time; returns what each was served, in tokens.
struct Load {
  std::uint32_t sequences, prompt, answer;
  double weight = 1;
};
std::vector<double> serve(const std::vector<Load>& loads, int steps) {
  Planner planner({.tokens = 64, .sequences = 8, .logit_rows = 8, .chunk_tokens = 32},
                  {block_tokens});
  std::vector<std::uint32_t> count(loads.size());
  std::vector<double> served(loads.size());
  std::vector<PlannerSequence> live;
  std::map<std::uint64_t, std::uint32_t> ends;
  std::uint64_t order = 0;
  for (int step = 0; step < steps; ++step) {
    for (std::uint32_t t = 0; t < loads.size(); ++t) {
      planner.activate(t, loads[t].weight);
      for (; count[t] < loads[t].sequences; ++count[t]) {
        live.push_back(waiting(t, loads[t].prompt));
        live.back().order = order++;
        ends[live.back().order] = loads[t].prompt + loads[t].answer;
      }
    }
    std::uint32_t held = 0;
    for (auto& s : live) held += s.freeable = s.blocks;
    const StepPlan& plan = planner.plan(live, 400 - held, 400);
    for (const std::uint32_t index : plan.preempted) {
      const PlannerSequence was = live[index];
      live[index] = waiting(was.tenant, was.target);
      live[index].order = was.order;
    }
    for (const PlannedChunk& chunk : plan.chunks) {
      PlannerSequence& s = live[chunk.sequence];
      s.state = State::running;
      s.computed += chunk.tokens;
      s.rows = s.blocks = std::max(s.blocks, blocks_for(s.computed));
      planner.serve(s.tenant, chunk.tokens);
      served[s.tenant] += chunk.tokens;
      if (s.computed == s.target) ++s.target;
    }
    std::erase_if(live, [&](const PlannerSequence& s) {
      if (s.computed < ends[s.order]) return false;
      --count[s.tenant];
      return true;
    });
  }
  return served;
}

// The bound of the VTC paper, for tenants that always have work: no one is ahead by more than what
// fits in the batch (8 places of a whole sequence each), however long they run.
TEST(PlannerSimulation, BackloggedTenantsAreServedAlike) {
  for (const int steps : {500, 5000}) {
    const auto served = serve({{50, 200, 200}, {50, 40, 20}}, steps);
    EXPECT_LT(std::abs(served[0] - served[1]), 8 * 400) << served[0] << " and " << served[1];
  }
}

// One short sequence at a time, beside a tenant that takes all it can get: 40 tokens of prompt in
// two steps, 20 steps of decoding, and nothing of its time spent waiting for the other.
TEST(PlannerSimulation, AFloodDoesNotStarveALightTenant) {
  const auto served = serve({{50, 200, 200}, {1, 40, 20}}, 4400);
  EXPECT_GT(served[1], 4400U / 22 * 60 * 95 / 100);
  EXPECT_GT(served[0], served[1]);
}

// Tiers: under contention service is as the weights are, whoever sends how much of what.
TEST(PlannerSimulation, ServiceFollowsTheWeights) {
  for (const auto& [prompt, answer] : {std::pair(30U, 40U), std::pair(100U, 20U)}) {
    const auto served = serve(
        {{20, prompt, answer, 4}, {20, prompt, answer, 2}, {40, prompt + 20, answer, 1}}, 20000);
    const double unit = (served[0] + served[1] + served[2]) / 7;
    EXPECT_NEAR(served[0], 4 * unit, 0.05 * 4 * unit);
    EXPECT_NEAR(served[1], 2 * unit, 0.05 * 2 * unit);
    EXPECT_NEAR(served[2], 1 * unit, 0.05 * 1 * unit);
  }
}

TEST(PlannerSimulation, AFloodGetsNoMoreThanItsEqual) {
  const auto served = serve({{400, 30, 40}, {10, 30, 40}}, 20000);
  EXPECT_NEAR(served[0], served[1], 0.05 * served[1]);
}

// Steps take 4 ms, and half a millisecond for each token.
class GreedyTest : public PlannerTest {
 protected:
  GreedyTest() {
    PlannerLimits limits{.tokens = 512, .sequences = 64, .logit_rows = 64, .chunk_tokens = 256};
    limits.greedy_step_seconds = 0.02;
    limits.decode_step_seconds = 1;
    planner_ = Planner(limits, {block_tokens});
    planner_.set_cost({0.004, 0.0005, 0});
    for (const std::uint32_t t : {0U, 1U, 2U}) planner_.activate(t);
  }
  static std::uint32_t tokens_of(const StepPlan& plan, std::uint32_t sequence) {
    std::uint32_t tokens = 0;
    for (const auto& chunk : plan.chunks) tokens += chunk.sequence == sequence ? chunk.tokens : 0;
    return tokens;
  }
  static constexpr std::uint32_t much = 30000;  // 15 s of prompt
  std::vector<PlannerSequence> flood() { return {waiting(0, much)}; }
};

TEST_F(GreedyTest, AFloodProlongsTheStepsOfOthersByAFifthUntilItHasHadItsShare) {
  auto sequences = flood();
  sequences.push_back(decoding(1, 20));
  // Of the 4.5 ms that the others take.
  EXPECT_EQ(tokens_of(plan(sequences, 4000), 0), 1U);
  EXPECT_TRUE(planner_.greedy(0));
  EXPECT_FALSE(planner_.greedy(1));
  planner_.use(0, 4.5);
  const auto tokens_in = [&](int steps) {
    std::uint32_t tokens = 0;
    for (int i = 0; i < steps; ++i) tokens += tokens_of(plan(sequences, 4000), 0);
    return tokens;
  };
  EXPECT_LE(tokens_in(220), 1U) << "almost a second, in which only what was left over is spent";
  EXPECT_NEAR(tokens_in(102), 100 * 4.5 * 5 / 95 / 0.5, 1) << "5%, never more than a token";
  plan(flood(), 4000);
  EXPECT_EQ(tokens_in(220), 0U) << "it had a step of its own";
  planner_.pass(10);
  EXPECT_NEAR(tokens_in(100), 100 * 4.5 / 5 / 0.5, 1) << "what was long ago is forgotten";
}

TEST_F(GreedyTest, OthersGoFirstWithAllTheyHave) {
  auto sequences = flood();
  sequences.push_back(waiting(1, 200));
  planner_.use(0, 8);
  planner_.serve(1, 100000);  // it is not its turn by what it was served
  const auto& planned = plan(sequences, 4000);
  EXPECT_EQ(planned.chunks.front().sequence, 1U);
  EXPECT_EQ(tokens_of(planned, 1), 200U);
  EXPECT_EQ(tokens_of(planned, 0), 0U) << "it had its share";
}

TEST_F(GreedyTest, PromptsAreCutForThoseThatDecode) {
  PlannerLimits limits = planner_.limits();
  limits.decode_step_seconds = 0.03;
  planner_.set_limits(limits);
  EXPECT_EQ(tokens_of(plan({waiting(0, 200)}, 4000), 0), 200U) << "nobody waits for it";
  // 4 ms and a token of 0.5 ms are taken of the 30.
  EXPECT_EQ(tokens_of(plan({decoding(1, 20), waiting(0, 200)}, 4000), 1), 51U);
  EXPECT_EQ(tokens_of(plan({decoding(0, 20), waiting(0, 200)}, 4000), 1), 51U) << "its own, too";
  const auto both = plan({decoding(1, 20), waiting(0, 40), waiting(2, 200)}, 4000);
  EXPECT_EQ(tokens_of(both, 1) + tokens_of(both, 2), 51U);
  // Where those take 29 ms: as long again.
  std::vector<PlannerSequence> sequences(25, decoding(1, 20));
  sequences.insert(sequences.end(), 25, decoding(2, 20));
  sequences.push_back(waiting(0, 200));
  EXPECT_EQ(tokens_of(plan(sequences, 4000), 50), 58U);
}

// A first step of few tokens makes each seem to take long: cut to what then seems to fit, the next
// ones are as small, and show nothing else.
TEST_F(GreedyTest, PromptsAreNotCutByACostThatIsAGuess) {
  PlannerLimits limits = planner_.limits();
  limits.decode_step_seconds = 0.03;
  planner_.set_limits(limits);
  planner_.set_cost({.base = 0, .per_token = 0.002}, false);
  EXPECT_EQ(tokens_of(plan({decoding(1, 20), waiting(0, 200)}, 4000), 1), 200U);
}

TEST_F(GreedyTest, StepsOfAFloodAreShortWhileOthersMayCome) {
  EXPECT_EQ(tokens_of(plan(flood(), 4000), 0), 256U) << "nobody else was here lately";
  planner_.use(1, 0.1);
  EXPECT_EQ(tokens_of(plan(flood(), 4000), 0), 32U) << "20 ms";
  planner_.pass(200);
  EXPECT_EQ(tokens_of(plan(flood(), 4000), 0), 256U);
}

TEST_F(GreedyTest, WhereAllWantTooMuchNobodyIsHeldBack) {
  const auto& planned = plan({waiting(0, much), waiting(1, much)}, 4000);
  EXPECT_EQ(tokens_of(planned, 0), 256U);
  EXPECT_EQ(tokens_of(planned, 1), 256U);
}

TEST_F(GreedyTest, NobodyIsGreedyWhereThereIsEnoughForAll) {
  const auto& planned = plan({waiting(0, 4000), waiting(1, 4000), decoding(2, 20)}, 4000);
  EXPECT_EQ(tokens_of(planned, 0) + tokens_of(planned, 1), 511U);
}

TEST_F(GreedyTest, WhatIsStillToBeGeneratedCounts) {
  // A token each now, but 600 sequences of 100 more.
  std::vector<PlannerSequence> sequences;
  for (int i = 0; i < 600; ++i) sequences.push_back(reserving(decoding(0, 4), 7));
  sequences.push_back(decoding(1, 20));
  const auto& planned = plan(sequences, 6000);
  EXPECT_EQ(planned.chunks.front().sequence, 600U);
  EXPECT_EQ(planned.chunks.size(), 2U) << "a fifth of what the other takes";
}

TEST_F(GreedyTest, StreamsThatFillAStepAreGreedyBeforeTheyHaveUsedMuch) {
  PlannerLimits limits = planner_.limits();
  limits.decode_step_seconds = 0.03;
  planner_.set_limits(limits);
  const auto streams = [](int first, int second) {
    std::vector<PlannerSequence> sequences(first, decoding(0, 20));
    sequences.insert(sequences.end(), second, decoding(1, 20));
    return sequences;
  };
  plan(streams(50, 1), 4000);
  EXPECT_FALSE(planner_.greedy(0)) << "25 of 26 ms";
  const auto& planned = plan(streams(54, 1), 4000);
  EXPECT_TRUE(planner_.greedy(0));
  EXPECT_EQ(planned.chunks.front().sequence, 54U);
  EXPECT_EQ(planned.chunks.size(), 2U) << "a fifth of what the other takes";
  plan(streams(0, 1), 4000);
  plan(streams(54, 27), 4000);
  EXPECT_FALSE(planner_.greedy(0) || planner_.greedy(1)) << "both want too much";
  EXPECT_EQ(plan(streams(54, 0), 4000).chunks.size(), 54U) << "nobody else is there";
}

TEST_F(GreedyTest, WhoeverIsGreedyStaysSoUntilItWantsMuchLess) {
  planner_.use(1, 0.5);
  const auto greedy_with = [&](double used) {
    planner_.pass(1000);
    planner_.use(1, 0.5);
    planner_.use(0, used);
    plan({waiting(0, 16), decoding(1, 20)}, 4000);
    return planner_.greedy(0);
  };
  EXPECT_FALSE(greedy_with(4)) << "of 4.5 that are left";
  EXPECT_TRUE(greedy_with(5));
  EXPECT_TRUE(greedy_with(4));
  EXPECT_TRUE(greedy_with(2.5));
  EXPECT_FALSE(greedy_with(2));
  EXPECT_FALSE(greedy_with(4));
}

TEST_F(GreedyTest, AHeavierTenantIsOwedMore) {
  weights_ = {1.0, 9.0};
  auto sequences = flood();
  sequences.push_back(decoding(1, 20));
  std::uint32_t tokens = 0;
  for (int i = 0; i < 100; ++i) tokens += tokens_of(plan(sequences, 4000), 0);
  EXPECT_NEAR(tokens, 100, 1) << "a tenth of each step";
}

TEST_F(GreedyTest, DecodesAndPromptsOfTheGreedyTakeTurns) {
  std::vector<PlannerSequence> sequences;
  for (int i = 0; i < 40; ++i) sequences.push_back(reserving(decoding(0, 4), 70));
  sequences.push_back(waiting(0, much));
  planner_.use(1, 0.1);
  EXPECT_EQ(plan(sequences, 6000).chunks.size(), 32U) << "20 ms, less the base";
  EXPECT_EQ(tokens_of(plan(sequences, 6000), 40), 32U);
  EXPECT_EQ(tokens_of(plan(sequences, 6000), 40), 0U);
}

}  // namespace
}  // namespace plimsoll
