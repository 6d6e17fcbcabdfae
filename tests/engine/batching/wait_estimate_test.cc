#include "engine/batching/wait_estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace plimsoll {
namespace {

constexpr StepCost cost = {.base = 0.004, .per_token = 1e-4, .per_attended = 0, .per_row = 3e-4};

Pace pace(std::uint32_t running = 0, double life_seconds = 0) {
  return {.cost = cost,
          .tokens = 512,
          .step_seconds = 0.03,
          .running = running,
          .life_seconds = life_seconds,
          .places = 64};
}

// Where a second of prompts takes a second, and places may be few.
Pace places(double starts_per_second, std::uint32_t places) {
  Pace pace;
  pace.places = places;
  pace.starts_per_second = starts_per_second;
  return pace;
}

TEST(ExpectedWait, IsNothingWhereNothingIsAhead) {
  EXPECT_EQ(expected_wait({1, 0, 0}, 100, {}, pace(10, 1)).before, 0);
}

TEST(ExpectedWait, OwnPromptsAreAllAhead) {
  const auto expected = expected_wait({1, 0, 3}, 1, {}, pace());
  EXPECT_DOUBLE_EQ(expected.before, 3 * pace().stretch(0));
  EXPECT_DOUBLE_EQ(expected.prompt, pace().stretch(0));
}

TEST(ExpectedWait, OfOthersOnlyTheFairPartIsAhead) {
  const std::vector<Backlog> flood = {{1, 50, 100}};
  // Half of the time is its own: it waits for as much of the flood as it has itself.
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 0}, 1, flood, {}).before, 1);
  EXPECT_DOUBLE_EQ(expected_wait({4, 0, 0}, 1, flood, {}).before, 0.25);
  // The flood waits for itself, and for a short one hardly longer.
  const std::vector<Backlog> small = {{1, 1, 0.5}};
  EXPECT_DOUBLE_EQ(expected_wait({1, 50, 100}, 1, small, {}).before, 100.5);
}

TEST(ExpectedWait, PlacesMayBeWhatIsShort) {
  EXPECT_DOUBLE_EQ(expected_wait({1, 10, 0.1, 8}, 0.01, {}, places(2, 8)).before, 5);
  const std::vector<Backlog> others = {{1, 100, 1, 4}};
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 0, 4}, 0.01, others, places(2, 8)).before, 0.5)
      << "it is next";
  EXPECT_DOUBLE_EQ(expected_wait({1, 0, 0, 3}, 0.01, others, places(2, 8)).before, 0.01)
      << "it has a right";
}

TEST(ExpectedWait, ThoseAheadWillDecodeAndThoseThatRunWillEnd) {
  const Pace idle = pace(), busy = pace(40, 1);
  EXPECT_NEAR(idle.stretch(0), 1 + 0.004 / 0.0512, 1e-9) << "steps are full of prompts";
  EXPECT_NEAR(idle.stretch(20), 0.03 / 0.018, 1e-9) << "20 rows take 8 ms, the base 4";
  EXPECT_NEAR(idle.stretch(60), 2, 1e-9) << "no less than half is the prompts'";
  EXPECT_NEAR(expected_wait({1, 40, 0.4}, 0.01, {}, idle).before, 0.4 * idle.stretch(20), 1e-9);
  EXPECT_NEAR(expected_wait({1, 0, 10}, 0.01, {}, busy).before, 10 * busy.stretch(20), 1e-9);
  EXPECT_NEAR(expected_wait({1, 0, 10}, 0.01, {}, busy).prompt, 0.01 * busy.stretch(0), 1e-9);
}

// An engine of one tenant, in steps: who came first is computed first, and then decodes.
class Steps {
 public:
  struct Sequence {
    double came, prompt_seconds, expected;
    std::uint32_t generates;
    double first = 0;  // when its first token came
  };

  double time() const { return time_; }
  ExpectedWait expect(double seconds) const {
    Backlog own;
    Pace now = pace(static_cast<std::uint32_t>(decoding_.size()));
    double left = 0;
    for (const std::uint32_t tokens : decoding_) left += tokens;
    if (now.running > 0) now.life_seconds = 2 * left / now.running * last_step_;
    for (std::size_t i = next_; i < all_.size(); ++i) own.seconds += all_[i].prompt_seconds;
    own.seconds -= done_;
    own.waiting = static_cast<std::uint32_t>(all_.size() - next_);
    return expected_wait(own, seconds, {}, now);
  }
  void submit(const Sequence& sequence) { all_.push_back(sequence); }
  void step() {
    const auto rows = static_cast<double>(decoding_.size());
    const double decode = rows * (cost.per_token + cost.per_row);
    const double most =
        rows > 0 ? cost.prefill_seconds(decode, pace().step_seconds) : 512 * cost.per_token;
    double prompts = 0;
    std::vector<std::uint32_t> begun;
    const std::size_t first = next_;
    while (next_ < all_.size() && prompts < most) {
      const double seconds = std::min(most - prompts, all_[next_].prompt_seconds - done_);
      prompts += seconds;
      done_ += seconds;
      if (done_ < all_[next_].prompt_seconds - 1e-12) break;
      done_ = 0;
      begun.push_back(all_[next_++].generates);
    }
    last_step_ = cost.base + decode + prompts;
    time_ += last_step_;
    for (std::size_t i = first; i < next_; ++i) all_[i].first = time_;
    for (std::uint32_t& tokens : decoding_) --tokens;
    std::erase(decoding_, 0U);
    decoding_.insert(decoding_.end(), begun.begin(), begun.end());
  }
  const std::vector<Sequence>& all() const { return all_; }
  bool waits() const { return next_ < all_.size(); }

 private:
  double time_ = 0, last_step_ = 0.01;
  std::vector<Sequence> all_;
  std::size_t next_ = 0;
  double done_ = 0;                      // of the next one's prompt
  std::vector<std::uint32_t> decoding_;  // tokens left
};

TEST(ExpectedWait, HoldsFromTheFirstSecondOfAnOverloadOn) {
  constexpr double objective = 1.5, begins = 1;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(static_cast<std::uint32_t>(seed));
    std::exponential_distribution<double> gap(200);
    std::uniform_real_distribution<double> prompt(0.001, 0.05);
    std::uniform_int_distribution<std::uint32_t> length(8, 48);
    Steps steps;
    double arrival = begins;
    while (steps.time() < begins + 8) {
      for (; arrival < steps.time(); arrival += gap(random)) {
        const double seconds = prompt(random);
        const auto [before, after] = steps.expect(seconds);
        if (before + after > objective) continue;
        steps.submit({arrival, seconds, before + after, length(random)});
      }
      steps.step();
    }
    while (steps.waits()) steps.step();
    double worst = 0, ratio = 0;
    for (const auto& sequence : steps.all()) {
      const double ttft = sequence.first - sequence.came;
      worst = std::max(worst, ttft);
      ratio += ttft / std::max(sequence.expected, 0.05) / steps.all().size();
    }
    EXPECT_LT(worst, 1.15 * objective) << "seed " << seed;
    EXPECT_NEAR(ratio, 1, 0.15) << "seed " << seed;
  }
}

TEST(LatenessBound, ComesToHoldForNearlyAll) {
  std::mt19937 random(1);
  std::lognormal_distribution<double> ratio(0, 0.5);
  LatenessBound bound;
  int late = 0;
  for (int i = 0; i < 4000; ++i) {
    const double seconds = ratio(random);
    if (i >= 2000) late += seconds > bound.factor();
    bound.observe(1, seconds);
  }
  EXPECT_NEAR(late, 20, 15);
  for (int i = 0; i < 4000; ++i) bound.observe(1, 0.1);
  EXPECT_EQ(bound.factor(), 1) << "what is never late is taken at its word";
}

TEST(StartRate, GoesFromWhatIsExpectedToWhatWasSeen) {
  StartRate rate;
  EXPECT_DOUBLE_EQ(rate.per_second(3), 3);
  for (int i = 0; i < 100; ++i) rate.pass(0.1, i % 2);  // 5 a second
  EXPECT_NEAR(rate.per_second(50), 5 + 45.0 / 6, 1) << "the expectation still counts a little";
  EXPECT_NEAR(rate.per_second(5), 5, 0.5);
  for (int i = 0; i < 300; ++i) rate.pass(0.1, 1);
  EXPECT_NEAR(rate.per_second(10), 10, 1) << "long ago is forgotten";
}

}  // namespace
}  // namespace plimsoll
