#include <algorithm>
#include <string>
#include <utility>

#include "engine/loop/loop_engine.h"

namespace plimsoll {

void LoopEngine::take_logits(Sequence& sequence, const PlannedChunk& chunk,
                             std::span<float> logits) {
  const std::size_t vocab = model_->info().vocab;
  const SamplingParams& sampling = sequence.request.sampling;
  for (std::uint32_t row = 0; row < chunk.logit_rows; ++row) {
    const std::uint32_t next = sequence.computed - chunk.logit_rows + row + 1;
    const auto numbers = logits.subspan(row * vocab, vocab);
    if (sequence.scores_prompt() && next < sequence.prompt_tokens) {
      sequence.scores.push_back(
          sampler_.score(numbers, sequence.tokens[next], sampling.top_logprobs));
      ++sequence.scored;
      if (!sequence.scores_prompt()) event(sequence).prompt = std::exchange(sequence.scores, {});
    }
    if (next != sequence.tokens.size() || !sequence.samples()) continue;
    if (sequence.generated().empty()) {  // others may wait for this prompt, or it comes again
      keep_prefix(sequence);
      tree_.expect(sequence.salt, sequence.tokens);
    }
    return take_token(sequence, numbers);
  }
  if (!sequence.samples() && !sequence.scores_prompt()) finish(sequence, FinishReason::length);
}

// The next token, from the logits behind the last one.
void LoopEngine::take_token(Sequence& sequence, std::span<float> logits) {
  const std::size_t next = sequence.tokens.size();
  SampledToken token =
      sampler_.sample(logits, sequence.request.sampling, next, sequence.generated());
  if (token.id == no_token) {
    sequence.computed = 0;
    return finish(sequence, FinishReason::error,
                  Error(ErrorCode::internal, "the model's logits at position " +
                                                 std::to_string(next) + " are not numbers"));
  }
  const auto& stops = sequence.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token.id) != stops.end()) {
    return finish(sequence, FinishReason::stop);
  }
  sequence.tokens.push_back(token.id);
  sequence.lookup.see(sequence.tokens);
  if (sequence.emitted == 0 && sequence.expected_ttft > 0) {
    const auto passed = Clock::now() - sequence.submitted;
    lateness_bound_.observe(sequence.expected_ttft, std::chrono::duration<double>(passed).count());
  }
  ++sequence.emitted;
  ++counters_.generated_tokens_total;
  event(sequence).tokens.push_back(std::move(token));
  if (!sequence.samples() && !sequence.scores_prompt()) finish(sequence, FinishReason::length);
}

// Row by row, as if each had been a step of its own: with the numbers that it would have had then.
// A draft is right if it is what was sampled. What was computed for the others is nobody's: it lies
// behind `computed`, and the next step writes over it.
void LoopEngine::take_drafts(Sequence& sequence, std::span<const TokenId> drafts,
                             std::span<float> logits) {
  const std::size_t vocab = model_->info().vocab;
  counters_.drafted_tokens_total += drafts.size();
  for (std::size_t i = 0; i < drafts.size() && !sequence.done; ++i) {
    if (sequence.tokens.back() != drafts[i]) break;
    ++sequence.computed;
    ++counters_.accepted_draft_tokens_total;
    charge_service(sequence);
    take_token(sequence, logits.subspan(i * vocab, vocab));
  }
}

SequenceEvent& LoopEngine::event(Sequence& sequence) {
  if (sequence.event == ~0U) {
    sequence.event = static_cast<std::uint32_t>(events_.size());
    events_.emplace_back();
    events_.back().id = sequence.request.id;
  }
  return events_[sequence.event];
}

void LoopEngine::finish(Sequence& sequence, FinishReason reason, std::optional<Error> error) {
  SequenceEvent& last = event(sequence);
  last.finish = reason;
  if (error) last.error = std::move(*error);
  last.usage = {sequence.prompt_tokens, sequence.cached,
                static_cast<std::uint32_t>(sequence.generated().size()), sequence.preemptions};
  if (reason == FinishReason::cancelled) ++counters_.cancelled_total;
  if (reason == FinishReason::stop || reason == FinishReason::length) {
    ++counters_.finished_total;
    if (sequence.request.max_new_tokens > 0) {
      tenants_.at(sequence.request.tenant).lengths.add(last.usage.generated_tokens);
      lengths_.add(last.usage.generated_tokens);
    }
  }
  keep_prefix(sequence);
  sequence.blocks.clear(pool_);
  sequence.done = true;
  finished_.push_back(&sequence);
}

void LoopEngine::fail_all(const std::string& what) {
  for (const auto& sequence : sequences_) {
    if (sequence->done) continue;
    sequence->computed = 0;
    finish(*sequence, FinishReason::error,
           Error(ErrorCode::internal, "the engine's step failed: " + what));
  }
}

// Forgets the finished, publishes the figures, and hands the step's events over, in this order: who
// hears of an end finds the place free.
void LoopEngine::emit() {
  if (applied_ == PressureLevel::red && !finished_.empty()) pool_.trim();
  EngineStats now = counters_;
  now.restored_tokens_total = restore_.restored_tokens();
  now.kv_blocks_total = pool_.capacity();
  now.kv_blocks_used = pool_.capacity() - pool_.free_count();
  now.kv_blocks_cached = tree_.size();
  std::uint32_t ended_in_queue = 0;
  for (const auto& sequence : sequences_) {
    sequence->event = ~0U;
    if (sequence->done) {
      ended_in_queue += !sequence->started;
    } else if (sequence->out_of_credit()) {
      ++now.paused;
    } else if (sequence->running) {
      ++now.running;
    } else {
      ++now.waiting;
    }
  }
  for (const Sequence* sequence : finished_) {
    Tenant& tenant = tenants_.at(sequence->request.tenant);
    if (--tenant.sequences == 0) planner_.deactivate(tenant.index);
  }
  {
    const std::lock_guard lock(mutex_);
    for (const Sequence* sequence : finished_) {
      by_id_.erase(sequence->request.id);
      const auto load = loads_.find(sequence->request.tenant);
      if (--load->second.sequences == 0) loads_.erase(load);
    }
    publish_backlogs();
    queued_ -= started_ + ended_in_queue;
    now.waiting += static_cast<std::uint32_t>(inbox_.size());
    now.refused_total = stats_.refused_total + std::exchange(counters_.refused_total, 0);
    stats_ = now;
  }
  started_ = 0;
  if (!finished_.empty()) {
    std::erase_if(sequences_, [](const auto& sequence) { return sequence->done; });
  }
  if (!events_.empty()) {
    auto events = std::exchange(events_, {});
    try {
      sink_(std::move(events));
    } catch (...) {
      // The listener's failure is its own: the loop serves others too.
    }
  }
  unfinished_.fetch_sub(finished_.size());
  finished_.clear();
}

}  // namespace plimsoll
