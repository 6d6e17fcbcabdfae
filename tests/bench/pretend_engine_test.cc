#include "bench/pretend/pretend_engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

namespace plimsoll::pretend {
namespace {

using namespace std::chrono_literals;

// What an engine emitted.
class Events {
 public:
  EngineSink sink() {
    return [this](std::vector<SequenceEvent>&& events) {
      const std::lock_guard lock(mutex_);
      for (auto& event : events) {
        auto& seen = seen_[event.id.get()];
        EXPECT_FALSE(seen.finish) << "nothing follows the end";
        for (const auto& token : event.tokens) seen.tokens.push_back(token.id);
        seen.finish = event.finish;
        seen.error = event.error;
      }
      changed_.notify_all();
    };
  }
  struct Seen {
    std::vector<TokenId> tokens;
    std::optional<FinishReason> finish;
    std::optional<Error> error;
  };
  Seen wait_for_end(std::uint64_t id) {
    return wait(id, [](const Seen& seen) { return seen.finish.has_value(); });
  }
  Seen wait_for_tokens(std::uint64_t id, std::size_t count) {
    return wait(id, [&](const Seen& seen) { return seen.tokens.size() >= count; });
  }
  Seen seen(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    return seen_[id];
  }

 private:
  Seen wait(std::uint64_t id, const std::function<bool(const Seen&)>& enough) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 20s, [&] { return enough(seen_[id]); }));
    return seen_[id];
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, Seen> seen_;
};

SequenceRequest request(std::uint64_t id, std::uint32_t tokens) {
  SequenceRequest out;
  out.id = RequestId(id);
  out.tenant = TenantId("t");
  out.prompt = {1, 2, 3};
  out.sampling.seed = 7;
  out.max_new_tokens = tokens;
  return out;
}

struct PretendEngineTest : testing::Test {
  std::unique_ptr<Engine> start(const std::function<void(Options&)>& change = {}) {
    Options options;
    options.step = 100us;
    if (change) change(options);
    return start_engine(options, ledger, events.sink(), clock);
  }
  Ledger ledger;
  Events events;
  std::shared_ptr<Clock> clock = std::make_shared<Clock>();
};

TEST_F(PretendEngineTest, AResumedSequenceGoesOnWithTheSameTokens) {
  const auto engine = start([](Options& o) { o.step_tokens = 3; });
  ASSERT_TRUE(engine->submit(request(1, 20)));
  const auto whole = events.wait_for_end(1);
  EXPECT_EQ(whole.finish, FinishReason::length);
  ASSERT_EQ(whole.tokens.size(), 20U);

  const auto other = start();
  auto rest = request(2, 20);
  rest.resumed.assign(whole.tokens.begin(), whole.tokens.begin() + 8);
  ASSERT_TRUE(other->submit(rest));
  EXPECT_EQ(events.wait_for_end(2).tokens,
            std::vector<TokenId>(whole.tokens.begin() + 8, whole.tokens.end()));

  auto seeded = request(3, 20);
  seeded.sampling.seed = 8;
  ASSERT_TRUE(other->submit(seeded));
  EXPECT_NE(events.wait_for_end(3).tokens, whole.tokens);
}

TEST_F(PretendEngineTest, EmitsNoMoreThanItsCredit) {
  const auto engine = start([](Options& o) { o.step_tokens = 4; });
  auto slow = request(1, 20);
  slow.credit = 6;
  ASSERT_TRUE(engine->submit(slow));
  events.wait_for_tokens(1, 6);
  ASSERT_TRUE(engine->submit(request(2, 40)));
  events.wait_for_end(2);  // ten steps later
  EXPECT_EQ(events.seen(1).tokens.size(), 6U);
  engine->add_credit(RequestId(1), 100);
  EXPECT_EQ(events.wait_for_end(1).tokens.size(), 20U);
  EXPECT_TRUE(engine->idle());
}

TEST_F(PretendEngineTest, EndsWhatIsCancelledLateOrDrained) {
  const auto engine = start();
  auto held = request(1, 1000);
  held.credit = 1;
  ASSERT_TRUE(engine->submit(held));
  engine->cancel(RequestId(1));
  EXPECT_EQ(events.wait_for_end(1).finish, FinishReason::cancelled);

  held.id = RequestId(2);
  held.deadline = std::chrono::steady_clock::now() + 1ms;
  ASSERT_TRUE(engine->submit(held));
  EXPECT_EQ(events.wait_for_end(2).error->code, ErrorCode::deadline_exceeded);

  held.id = RequestId(3);
  held.deadline.reset();
  ASSERT_TRUE(engine->submit(held));
  engine->drain(std::chrono::steady_clock::now());
  EXPECT_EQ(events.wait_for_end(3).error->code, ErrorCode::unavailable);
  EXPECT_EQ(engine->submit(request(4, 1)).error().code, ErrorCode::unavailable);
}

TEST_F(PretendEngineTest, QueuesWhatDoesNotFitAndRefusesBeyondTheQueue) {
  const auto engine = start([](Options& o) {
    o.queue_length = 1;
    o.kv_token_bytes = 100;
    o.kv_bytes = 2000;
  });
  auto first = request(1, 15);  // 18 tokens: there is room for two more
  first.credit = 0;
  ASSERT_TRUE(engine->submit(first));
  while (engine->stats().running == 0) std::this_thread::yield();
  ASSERT_TRUE(engine->submit(request(2, 5)));
  const auto refused = engine->submit(request(3, 5));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(engine->submit(request(4, 50)).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(ledger.total_bytes(MemoryKind::anonymous), 1800);
  EXPECT_TRUE(events.seen(2).tokens.empty());
  engine->cancel(RequestId(1));
  EXPECT_EQ(events.wait_for_end(2).tokens.size(), 5U);
}

TEST_F(PretendEngineTest, CancelsWhatIsLeftWhenItEnds) {
  auto engine = start();
  ASSERT_TRUE(engine->submit(request(1, 8000)));
  events.wait_for_tokens(1, 1);
  engine.reset();
  EXPECT_EQ(events.seen(1).finish, FinishReason::cancelled);
  EXPECT_EQ(ledger.total_bytes(MemoryKind::anonymous), 0);
}

}  // namespace
}  // namespace plimsoll::pretend
