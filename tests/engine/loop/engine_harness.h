// An engine on a fake model, and a place where its events are collected.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/loop/engine.h"
#include "tests/engine/loop/fake_model.h"

namespace plimsoll::testing {

using namespace std::chrono_literals;

struct Outcome {
  std::vector<SampledToken> prompt;
  std::vector<TokenId> tokens;
  std::vector<SampledToken> sampled;
  std::optional<FinishReason> finish;
  std::optional<Error> error;
  SequenceUsage usage;
};

class EngineHarness {
 public:
  // A fake model, with a pool of so many blocks (of one layer group), and a ledger of its own.
  EngineHarness(EngineConfig config, std::uint32_t blocks, FakeModelOptions model = {})
      : own_ledger_(std::make_unique<Ledger>()), ledger_(*own_ledger_) {
    config.model_version = "fake@1";
    model.limits = config.limits;
    auto fake = std::make_unique<FakeModel>(std::move(model));
    block_bytes_ = kv_layout(fake->info(), config.block_tokens, config.kv_type).block_bytes();
    config.kv_budget_bytes = blocks * block_bytes_;
    start(std::move(fake), config);
  }
  EngineHarness(std::unique_ptr<CausalModel> model, const EngineConfig& config, Ledger& ledger)
      : ledger_(ledger) {
    start(std::move(model), config);
  }

  Engine& engine() { return *engine_; }
  Ledger& ledger() { return ledger_; }
  std::uint64_t block_bytes() const { return block_bytes_; }  // with a fake model
  std::uint32_t vocab() const { return engine_->model().vocab; }
  void stop() { engine_.reset(); }

  // Waits until the condition holds of what has come so far; false after 20 s.
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return condition(outcomes_); });
  }
  Outcome outcome(std::uint64_t id) {
    EXPECT_TRUE(wait([&](auto& outcomes) { return outcomes[id].finish.has_value(); }))
        << "sequence " << id << " did not finish";
    const std::lock_guard lock(mutex_);
    return outcomes_[id];
  }
  std::size_t token_count(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    return outcomes_[id].tokens.size();
  }
  bool wait_tokens(std::uint64_t id, std::size_t count) {
    return wait([&](auto& outcomes) { return outcomes[id].tokens.size() >= count; });
  }
  bool wait_idle() {
    return poll([&] { return engine_->idle(); });
  }
  template <class Condition>
  bool wait_stats(Condition condition) {
    return poll([&] { return condition(engine_->stats()); });
  }
  std::int64_t charged(Component component) {
    std::int64_t bytes = 0;
    for (const LedgerRow& row : ledger_.snapshot()) {
      EXPECT_GE(row.bytes, 0);
      if (row.component == component) bytes += row.bytes;
    }
    return bytes;
  }

 private:
  std::uint64_t block_bytes_ = 0;
  template <class Condition>
  bool poll(Condition condition) {
    for (int i = 0; i < 20'000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(1ms);
    }
    return false;
  }
  void take(std::vector<SequenceEvent>& events) {
    const std::lock_guard lock(mutex_);
    for (SequenceEvent& event : events) {
      Outcome& outcome = outcomes_[event.id.get()];
      EXPECT_FALSE(outcome.finish) << "an event after the last of sequence " << event.id.get();
      if (!event.prompt.empty()) {
        EXPECT_TRUE(outcome.prompt.empty());
        outcome.prompt = std::move(event.prompt);
      }
      for (SampledToken& token : event.tokens) {
        outcome.tokens.push_back(token.id);
        outcome.sampled.push_back(std::move(token));
      }
      outcome.finish = event.finish;
      outcome.error = std::move(event.error);
      outcome.usage = event.usage;
    }
    changed_.notify_all();
  }

  void start(std::unique_ptr<CausalModel> model, const EngineConfig& config) {
    auto engine = Engine::start(std::move(model), config, ledger_,
                                [this](std::vector<SequenceEvent>&& events) { take(events); });
    if (!engine) throw std::runtime_error(to_string(engine.error()));
    engine_ = std::move(*engine);
  }

  std::unique_ptr<Ledger> own_ledger_;
  Ledger& ledger_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, Outcome> outcomes_;
  std::unique_ptr<Engine> engine_;
};

inline SequenceRequest make_request(std::uint64_t id, std::vector<TokenId> prompt,
                                    std::uint32_t max_new_tokens, const char* tenant = "alice") {
  SequenceRequest request;
  request.id = RequestId{id};
  request.tenant = TenantId{tenant};
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  request.sampling.seed = id;
  return request;
}

inline std::vector<TokenId> make_prompt(std::size_t count, std::uint64_t seed,
                                        std::uint32_t vocab = 50) {
  std::vector<TokenId> tokens;
  for (std::size_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<TokenId>(mix(seed, i) % vocab));
  }
  return tokens;
}

}  // namespace plimsoll::testing
