// One sequence inside the engine loop.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/types.h"
#include "engine/batching/planner.h"
#include "engine/batching/prompt_lookup.h"
#include "engine/batching/wait_estimate.h"
#include "engine/kv/block_table.h"
#include "engine/kv/kv_tier.h"
#include "engine/loop/engine.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

struct Sequence {
  using Clock = std::chrono::steady_clock;

  Sequence(SequenceRequest r, Clock::time_point now)
      : request(std::move(r)),
        salt(request.sharing_group.empty() ? "tenant:" + request.tenant.get()
                                           : "group:" + request.sharing_group),
        tokens(std::move(request.prompt)),
        prompt_tokens(static_cast<std::uint32_t>(tokens.size())),
        submitted(now),
        credit(request.credit) {
    // All it will need, so that a step allocates nothing for it.
    tokens.reserve(std::size_t{prompt_tokens} + request.max_new_tokens);
    tokens.insert(tokens.end(), request.resumed.begin(), request.resumed.end());
    request.resumed = {};
    if (request.prompt_logprobs) {
      scores.reserve(prompt_tokens);
      scores.push_back({tokens[0], 0, {}});
      scored = 1;
    }
  }

  SequenceRequest request;      // less its tokens
  std::string salt;             // who may share its prefix
  Charge charge;                // `queues` until it starts, then `requests`
  Account* requests = nullptr;  // of its tenant and endpoint
  Account* kv = nullptr;        // that too

  std::vector<TokenId> tokens;  // the prompt, what was resumed, what was generated
  std::uint32_t prompt_tokens;
  std::uint32_t emitted = 0;
  std::vector<SampledToken> scores;  // of the prompt, if asked for, until they are sent
  std::uint32_t scored = 0;          // prompt tokens

  Backlog* backlog = nullptr;  // its tenant's, of the engine; under the engine's mutex
  double expected_ttft = 0;    // when it came, in seconds; 0: nothing was ahead of it

  std::uint32_t tenant = 0;   // the planner's index
  std::uint32_t reserve = 0;  // rows that its block table is expected to have at its end
  std::uint64_t order = 0;    // of arrival
  Clock::time_point submitted;
  bool started = false;  // has been scheduled once
  bool running = false;  // holds blocks
  bool done = false;
  std::uint32_t event = ~0U;  // its index among the step's events

  BlockTable blocks;
  std::uint32_t computed = 0;  // tokens whose keys and values are in `blocks`
  std::uint32_t expected = 0;  // while it waits: those that may be found when it starts
  std::uint32_t charged = 0;   // of `tokens`, those that its tenant was served
  std::uint32_t cached = 0;
  std::uint32_t preemptions = 0;
  PromptLookup lookup;

  // Blocks on their way back from a tier, while it waits for them.
  bool looked_up = false;  // since it last ran
  std::unique_ptr<KvFetch> fetch;
  std::uint32_t fetch_first = 0;  // of its blocks, the first that is fetched
  Clock::time_point fetch_until{};

  // Written by any thread.
  std::atomic<bool> cancelled{false};
  std::atomic<std::uint64_t> credit;  // tokens that may be emitted in all

  std::span<const TokenId> generated() const { return std::span(tokens).subspan(prompt_tokens); }
  bool samples() const { return generated().size() < request.max_new_tokens; }
  bool scores_prompt() const { return request.prompt_logprobs && scored < prompt_tokens; }
  std::uint32_t target() const {
    return samples() ? static_cast<std::uint32_t>(tokens.size()) : prompt_tokens - 1;
  }
  std::span<const TokenId> target_text() const { return std::span(tokens).first(target()); }
  bool out_of_credit() const {
    return samples() && emitted >= credit.load(std::memory_order_relaxed);
  }

  // As the planner sees it; `freeable` is left to the caller.
  PlannerSequence view() const {
    PlannerSequence view;
    view.tenant = tenant;
    view.order = order;
    view.capacity_class = request.capacity_class;
    view.reserve = reserve;
    view.state = running ? (out_of_credit() ? PlannerSequence::State::paused
                                            : PlannerSequence::State::running)
                         : PlannerSequence::State::waiting;
    view.computed = running ? computed : expected;
    view.target = target();
    view.samples = samples();
    if (scores_prompt()) {
      // The logits of a position score the token after it. The last position's are for sampling.
      view.score_from = scored - 1;
      view.score_until =
          tokens.size() == prompt_tokens && view.samples ? prompt_tokens : prompt_tokens - 1;
    }
    view.rows = blocks.rows();
    view.blocks = blocks.held();
    return view;
  }

  // Of a sequence that decodes: what may be drafted. If all of it is right, another token comes
  // behind it, and even that is within its length and its credit.
  void foretell(PlannerSequence& view) {
    lookup.look_up(tokens);
    if (!lookup.found()) return;
    const std::uint64_t room =
        std::min<std::uint64_t>(request.max_new_tokens - generated().size(),
                                credit.load(std::memory_order_relaxed) - emitted);
    view.drafts =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(room - 1, PromptLookup::most_drafts));
    view.draft_chance = lookup.chance();
  }
};

}  // namespace plimsoll
