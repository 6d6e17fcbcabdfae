// What happens to streams when nodes are lost or drain.
#include <gtest/gtest.h>

#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using testing::House;
using testing::HouseOptions;
using testing::Listener;

// The node that has work, and the other one.
std::pair<int, int> busy_and_idle(House& house) {
  return house.engines[0]->idle() ? std::pair(1, 0) : std::pair(0, 1);
}

void kill(House& house, int node) {
  caf::anon_send_exit(house.nodes[static_cast<std::size_t>(node)], caf::exit_reason::kill);
}

TEST(Failover, AStreamOutlivesItsNodeWithoutLosingOrRepeatingAToken) {
  House house({.nodes = 2, .step = std::chrono::microseconds(2000), .window = 32});
  std::string prompt = "The quick brown fox jumps over the lazy dog. ";
  const auto answer = house.generate(prompt, 200);
  ASSERT_TRUE(answer->wait_for_tokens(20));
  const auto [busy, other] = busy_and_idle(house);
  kill(house, busy);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  std::string expected;
  while (expected.size() < 200) expected += prompt;
  EXPECT_EQ(answer->text.at(0), expected.substr(0, 200));
  EXPECT_EQ(answer->usage.completion_tokens, 200U);
  const auto replayed = house.engines[static_cast<std::size_t>(other)]->requests();
  ASSERT_EQ(replayed.size(), 1U);
  EXPECT_GE(replayed[0].resumed.size(), 20U);
  EXPECT_LE(replayed[0].credit, 32U) << "no more credit than the client has given";
  house.settle();
  EXPECT_EQ(house.board->nodes().at(static_cast<std::size_t>(busy)).state, "lost");
}

TEST(Failover, WithoutAnotherNodeTheStreamEndsWithARetryableError) {
  House house({.step = std::chrono::microseconds(1000)});
  const auto answer = house.generate("abc", 4000);
  ASSERT_TRUE(answer->wait_for_tokens(3));
  kill(house, 0);
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::unavailable);
  EXPECT_GT(answer->error->retry_after_ms, 0U);
  const auto next = house.generate("abc", 3);
  ASSERT_TRUE(next->wait());
  EXPECT_EQ(next->error->code, ErrorCode::unavailable);
  EXPECT_FALSE(house.frontend->ready());
}

TEST(Failover, AStreamWaitsForANodeThatComesBack) {
  House house({.step = std::chrono::microseconds(1000), .park = true});
  const auto answer = house.generate("abc", 60);
  ASSERT_TRUE(answer->wait_for_tokens(5));
  kill(house, 0);
  while (house.board->nodes().at(0).state != "lost") std::this_thread::yield();
  house.add_node("node-0", 2, {});
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  EXPECT_EQ(answer->text.at(0).size(), 60U);
  EXPECT_EQ(answer->text.at(0).substr(0, 9), "abcabcabc");
}

TEST(Failover, ACancelledSequenceIsNotReplayed) {
  House house({.nodes = 2});
  house.engines[0]->hold = true;
  house.engines[1]->hold = true;
  const auto answer = house.generate("abc", 100);
  while (house.engines[0]->idle() && house.engines[1]->idle()) std::this_thread::yield();
  const auto [busy, other] = busy_and_idle(house);
  auto& engine = *house.engines[static_cast<std::size_t>(busy)];
  engine.deaf = true;  // the node dies before it gets to the cancellation
  answer->stream->cancel();
  while (engine.cancels == 0) std::this_thread::yield();
  kill(house, busy);
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_TRUE(house.engines[static_cast<std::size_t>(other)]->requests().empty());
}

TEST(Failover, ANodeThatComesBackServesAgain) {
  House house;
  kill(house, 0);
  house.settle();
  house.add_node("node-0", 2, {});
  house.settle();
  const auto answer = house.generate("abc", 3);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  EXPECT_EQ(answer->text.at(0), "abc");
}

TEST(Failover, ARequestThatKillsItsNodesIsGivenUp) {
  House house({.nodes = 5, .step = std::chrono::microseconds(1000)});
  const auto answer = house.generate("abc", 4000);
  int killed = 0;
  while (!answer->wait(std::chrono::milliseconds(20)) && killed < 5) {
    for (std::size_t i = 0; i < house.nodes.size(); ++i) {
      if (!house.nodes[i] || house.engines[i]->idle()) continue;
      kill(house, static_cast<int>(i));
      house.nodes[i] = nullptr;
      ++killed;
      break;
    }
  }
  ASSERT_TRUE(answer->ended);
  EXPECT_EQ(answer->error->code, ErrorCode::unavailable);
  EXPECT_EQ(killed, 3) << "the first node and two replays";
}

TEST(Failover, DrainLetsWhatRunsEndAndTakesNothingNew) {
  House house({.step = std::chrono::microseconds(500)});
  const auto quick = house.generate("abc", 30);
  const auto endless = house.generate("abc", 4000);
  ASSERT_TRUE(endless->wait_for_tokens(1));
  ASSERT_TRUE(quick->wait_for_tokens(1));
  caf::anon_send(house.router, Drain{300});
  const auto late = house.generate("abc", 3);
  ASSERT_TRUE(late->wait());
  EXPECT_EQ(late->error->code, ErrorCode::unavailable);
  ASSERT_TRUE(quick->wait());
  EXPECT_FALSE(quick->error);
  ASSERT_TRUE(endless->wait(std::chrono::seconds(3)));
  ASSERT_TRUE(endless->error);
  EXPECT_EQ(endless->error->code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace plimsoll
