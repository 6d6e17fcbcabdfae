// An engine that only pretends to compute: clusters of many nodes run in one process on it.
//
// Its tokens are a function of (prompt, seed, position) alone, as a real engine's are, so that a
// sequence that goes on elsewhere goes on with the same tokens. It keeps what the Engine interface
// promises: credit, cancellation, deadlines, drain, a bounded queue and a KV budget.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/loop/engine.h"
#include "engine/memory/ledger.h"

namespace plimsoll::pretend {

// One thread for the steps of many engines, each at its own pace.
class Clock {
 public:
  using Time = std::chrono::steady_clock::time_point;

  Clock();
  ~Clock();  // every engine has left

  // Runs `step` on the clock's thread at `time`, once. `owner` names it for leave().
  void at(Time time, const void* owner, std::function<void()> step);
  // Nothing of `owner` runs after this. Not from the clock's thread.
  void leave(const void* owner);
  double cpu_seconds();  // that its thread has used

 private:
  struct Entry {
    Time time;
    const void* owner;
    std::function<void()> step;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Entry> entries_;  // a heap, the earliest first
  const void* running_ = nullptr;
  bool stop_ = false;
  std::thread thread_;
};

struct Options {
  std::chrono::microseconds step{20'000};
  std::chrono::microseconds phase{};  // engines that start together step apart
  std::uint32_t batch = 64;           // sequences in one step
  std::uint32_t step_tokens = 1;      // of each sequence in one step
  std::uint32_t queue_length = 256;
  std::uint64_t kv_token_bytes = 1024;
  std::uint64_t kv_bytes = 256_MiB;  // for prompts and capped generations, reserved at the start
  std::uint32_t context_tokens = 8192;
  // Called on the clock's thread before tokens are emitted: the position of the first (0 is the
  // first generated token), and how many.
  std::function<void(const SequenceRequest&, std::uint32_t position, std::uint32_t tokens)> on_emit;
};

// What follows a prompt. Tokens are letters, so that a byte tokenizer makes as many characters.
std::uint64_t prompt_hash(std::span<const TokenId> prompt);
TokenId token_at(std::uint64_t prompt_hash, std::uint64_t seed, std::uint64_t position);

// `clock` and `ledger` outlive the engine. Without a clock the engine has its own.
std::unique_ptr<Engine> start_engine(Options options, Ledger& ledger, EngineSink sink,
                                     std::shared_ptr<Clock> clock = nullptr);

}  // namespace plimsoll::pretend
