#include "engine/batching/planner.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace plimsoll {

std::string_view to_string(CapacityClass of) {
  constexpr std::string_view names[] = {"low_latency", "batch", "long_context"};
  return names[static_cast<int>(of)];
}

Planner::Planner(const PlannerLimits& limits, const KvDemand& demand)
    : limits_(limits), demand_(demand) {}

PlannedChunk Planner::fit(const PlannerSequence& sequence, std::uint32_t tokens,
                          std::uint32_t logit_rows) {
  const std::uint32_t computed = sequence.computed;
  const std::uint32_t remaining = sequence.target - computed;
  PlannedChunk chunk;
  chunk.tokens = std::min(tokens, remaining);
  if (computed < sequence.score_until) {
    const std::uint32_t first = std::max(computed, sequence.score_from);
    const std::uint32_t end =
        std::min({computed + chunk.tokens, sequence.score_until, first + logit_rows});
    chunk.tokens = end - computed;
    chunk.logit_rows = end > first ? end - first : 0;
  } else if (chunk.tokens == remaining && sequence.samples) {
    if (logit_rows > 0) {
      chunk.logit_rows = 1;
    } else {
      --chunk.tokens;  // the last token waits for a row
    }
  }
  return chunk;
}

const StepPlan& Planner::plan(std::span<const PlannerSequence> sequences, std::uint32_t available,
                              std::uint32_t capacity) {
  sequences_ = sequences;
  available_ = available;
  capacity_ = capacity;
  // A running sequence must be able to decode in every step.
  places_cap_ = std::min({limits_.sequences, limits_.tokens, limits_.logit_rows});
  chunks_left_ = limits_.sequences;
  tokens_left_ = limits_.tokens;
  rows_left_ = limits_.logit_rows;
  plan_.preempted.clear();
  plan_.chunks.clear();
  fates_.assign(sequences.size(), {});
  planned_seconds_ = 0;
  read();
  find_greedy();
  seconds_left_ = no_limit;
  plan_decodes(false);
  const double decoding = decode_seconds(false);
  most_seconds_ = decoding + prefill_seconds(decoding);
  plan_prefills(false);
  plan_greedy();
  std::erase_if(plan_.chunks, [&](const auto& chunk) { return fates_[chunk.sequence].preempted; });
  if (plan_.chunks.empty()) {
    plan_oldest();
  } else {
    plan_drafts();
  }
  return plan_;
}

void Planner::read() {
  for (Tenant& tenant : tenants_) {
    tenant.planned = tenant.wanted = tenant.decode_seconds = 0;
    tenant.blocks = tenant.places = 0;
    tenant.decodes.clear();
    tenant.prefills.clear();
    tenant.next = 0;
  }
  oldest_ = nobody;
  class_blocks_ = {};
  weights_ = 0;
  places_ = 0;
  for (std::uint32_t i = 0; i < sequences_.size(); ++i) {
    const PlannerSequence& sequence = sequences_[i];
    Tenant& tenant = tenants_[sequence.tenant];
    assert(tenant.active && sequence.computed < sequence.target);
    if (tenant.next == 0) weights_ += tenant.weight;
    tenant.next = 1;  // seen
    const std::uint32_t end = std::max(sequence.target, sequence.reserve * demand_.block_tokens);
    const std::uint32_t generates = end - sequence.target + (sequence.samples ? 1 : 0);
    tenant.wanted += cost_.added(sequence.computed, end - sequence.computed, generates);
    tenant.blocks += sequence.blocks;
    class_of(sequence) += sequence.blocks;
    if (sequence.state == State::paused) continue;
    const bool running = sequence.state == State::running;
    if (running) {
      ++places_;
      ++tenant.places;
      if (oldest_ == nobody) oldest_ = i;
    }
    (decodes(sequence) ? tenant.decodes : tenant.prefills).push_back(i);
    if (decodes(sequence)) tenant.decode_seconds += cost_.added(sequence.computed, 1, 1);
  }
}

double Planner::prefill_seconds(double decode_seconds) const {
  if (decode_seconds == 0 || !cost_is_sure_) return no_limit;
  return cost_.prefill_seconds(decode_seconds, limits_.decode_step_seconds);
}

// Of `tokens`, as many as there is time for.
std::uint32_t Planner::affordable(const PlannerSequence& sequence, std::int64_t tokens) const {
  tokens = std::max<std::int64_t>(0, tokens);
  const double seconds = std::min(seconds_left_, most_seconds_ - planned_seconds_);
  if (seconds == no_limit) return static_cast<std::uint32_t>(tokens);
  return static_cast<std::uint32_t>(
      std::min<std::int64_t>(tokens, cost_.tokens_within(seconds, sequence.computed)));
}

void Planner::plan_decodes(bool greedy) {
  for (Tenant& tenant : tenants_) tenant.next = 0;
  const std::uint32_t most = std::min({chunks_left_, tokens_left_, rows_left_});
  chosen_.clear();
  std::int64_t needed = 0;
  double seconds = 0;
  while (chosen_.size() < most) {
    const std::uint32_t t = least_served(&Tenant::decodes, greedy);
    if (t == nobody) break;
    Tenant& tenant = tenants_[t];
    const std::uint32_t index = tenant.decodes[tenant.next];
    seconds += cost_.added(sequences_[index].computed, 1, 1);
    if (seconds > seconds_left_ * (1 + 1e-9)) break;
    ++tenant.next;
    chosen_.push_back(index);
    tenant.planned += output_token_cost / tenant.weight;
    needed += growth(index, 1);
  }
  while (needed > available_) {
    std::uint32_t index = find_victim(Victims::paused, nobody);
    if (index == nobody) index = find_victim(Victims::any, nobody);
    if (index == nobody) break;  // all but the oldest are gone; what they held is enough for it
    preempt(index);
    if (std::erase(chosen_, index) > 0) needed -= growth(index, 1);
  }
  for (const std::uint32_t index : chosen_) {
    add_chunk({index, 1, 1}, growth(index, 1), 0);
  }
}

void Planner::plan_prefills(bool greedy) {
  for (Tenant& tenant : tenants_) tenant.next = 0;
  // Nobody is admitted past one of its class that does not fit: else the small would starve the
  // large.
  std::array<bool, capacity_classes> closed{};
  while (true) {
    const std::uint32_t t = least_served(&Tenant::prefills, greedy);
    if (t == nobody) break;
    Tenant& tenant = tenants_[t];
    const std::uint32_t index = tenant.prefills[tenant.next++];
    const PlannerSequence& sequence = sequences_[index];
    if (fates_[index].preempted) continue;
    if (sequence.state == State::waiting) {
      auto& shut = closed[static_cast<std::size_t>(sequence.capacity_class)];
      const bool guaranteed = tenant.blocks + needed(sequence) <= tenant.guaranteed;
      if ((shut || !limits_.admits) && !guaranteed) continue;
      shut = !admit(index) || shut;
      continue;
    }
    const auto tokens =
        std::min<std::int64_t>({room(sequence, available_), std::int64_t{tokens_left_},
                                std::int64_t{limits_.chunk_tokens}});
    PlannedChunk chunk = fit(sequence, affordable(sequence, tokens), rows_left_);
    if (chunk.tokens == 0 || chunks_left_ == 0) continue;
    chunk.sequence = index;
    add_chunk(chunk, growth(index, chunk.tokens), prompt_token_cost);
  }
}

// Makes room for a waiting sequence and gives it its first chunk, or changes nothing.
bool Planner::admit(std::uint32_t index) {
  const PlannerSequence& sequence = sequences_[index];
  const std::uint32_t blocks = demand_.blocks(demand_.rows(sequence.target));
  const std::size_t before = plan_.preempted.size();
  PlannedChunk chunk;
  if (make_room(index, needed(sequence)) && chunks_left_ > 0 &&
      (rows_left_ > 0 || !sequence.samples)) {
    const std::uint32_t tokens = std::min(tokens_left_, limits_.chunk_tokens);
    chunk = fit(sequence, affordable(sequence, tokens), rows_left_);
  }
  if (chunk.tokens == 0) {
    while (plan_.preempted.size() > before) undo_preempt(plan_.preempted.back());
    return false;
  }
  chunk.sequence = index;
  // If the prefix tree knows most of it, the chunk will reach its end and sample.
  if (sequence.samples) chunk.logit_rows = std::max(chunk.logit_rows, 1U);
  ++places_;
  ++tenants_[sequence.tenant].places;
  add_chunk(chunk, blocks, prompt_token_cost);
  return true;
}

// Nothing fits: the oldest goes on, whoever has to make room.
void Planner::plan_oldest() {
  std::uint32_t index = oldest_;
  if (index == nobody) {
    for (Tenant& tenant : tenants_) tenant.next = 0;
    std::uint32_t t = least_served(&Tenant::prefills, false);
    if (t == nobody) t = least_served(&Tenant::prefills, true);
    if (t == nobody) return;
    index = tenants_[t].prefills.front();
  }
  const PlannerSequence& sequence = sequences_[index];
  const bool waiting = sequence.state == State::waiting;
  const std::int64_t needed =
      waiting ? demand_.blocks(demand_.rows(sequence.target)) : growth(index, 1);
  if (waiting && !limits_.admits && needed > available_) return;  // until there is memory again
  while (available_ < needed) {
    std::uint32_t taken = find_victim(Victims::paused, nobody);
    if (taken == nobody) taken = find_victim(Victims::any, nobody);
    if (taken == nobody) break;
    preempt(taken);
  }
  const auto tokens =
      std::min<std::int64_t>({room(sequence, std::max(available_, needed)),
                              std::int64_t{limits_.chunk_tokens}, std::int64_t{limits_.tokens}});
  PlannedChunk chunk = fit(sequence, static_cast<std::uint32_t>(tokens), limits_.logit_rows);
  chunk.sequence = index;
  if (waiting && sequence.samples) chunk.logit_rows = std::max(chunk.logit_rows, 1U);
  plan_.chunks.push_back(chunk);
}

// With what is left, from those that are served first to the last.
void Planner::plan_drafts() {
  if (!cost_.known()) return;
  const std::uint32_t first = sequences_[plan_.chunks.front().sequence].tenant;
  bool several = false, all_greedy = true;
  double served = 0;  // as tenants are charged for it
  for (const PlannedChunk& chunk : plan_.chunks) {
    const PlannerSequence& sequence = sequences_[chunk.sequence];
    several |= sequence.tenant != first;
    all_greedy &= tenants_[sequence.tenant].greedy;
    served += static_cast<double>(decodes(sequence) ? output_token_cost
                                                    : chunk.tokens * prompt_token_cost);
  }
  double seconds = most_seconds_ - planned_seconds_;
  if (all_greedy) seconds = std::min(seconds, seconds_left_);
  if (several) seconds = std::min(seconds, most_draft_share * (cost_.base + planned_seconds_));
  for (PlannedChunk& chunk : plan_.chunks) {
    const PlannerSequence& sequence = sequences_[chunk.sequence];
    if (!decodes(sequence) || (tenants_[sequence.tenant].greedy && !all_greedy)) continue;
    double chance = 1;
    while (chunk.drafts < sequence.drafts && tokens_left_ > 0 && rows_left_ > 0) {
      chance *= sequence.draft_chance;
      const double worth = chance * output_token_cost;
      const double takes = cost_.added(sequence.computed + 1 + chunk.drafts, 1, 1);
      // Its part of what the step gives is to be more than its part of what the step takes.
      if (worth * (cost_.base + planned_seconds_) < draft_margin * takes * served) break;
      if (takes > seconds || !room_for_draft(chunk)) break;
      served += worth;
      seconds -= takes;
      planned_seconds_ += takes;
      ++chunk.drafts;
      --tokens_left_;
      --rows_left_;
    }
  }
}

// Takes the row for one more, if it needs one: only what the sequence is expected to take anyway,
// and what is not wanted before that.
bool Planner::room_for_draft(const PlannedChunk& chunk) {
  Fate& fate = fates_[chunk.sequence];
  const PlannerSequence& sequence = sequences_[chunk.sequence];
  const std::uint32_t tokens = chunk.tokens + chunk.drafts + 1;
  const std::uint32_t blocks = growth(chunk.sequence, tokens);
  if (blocks <= fate.granted) return true;
  const std::uint32_t rows = demand_.rows(sequence.computed + tokens);
  if (demand_.blocks(rows) > needed(sequence) ||
      available_ <= std::int64_t{places_} * demand_.layer_groups()) {
    return false;
  }
  available_ -= blocks - fate.granted;
  fate.granted = blocks;
  return true;
}

void Planner::add_chunk(PlannedChunk chunk, std::uint32_t blocks, std::uint64_t token_cost) {
  plan_.chunks.push_back(chunk);
  fates_[chunk.sequence].chunk = chunk;
  fates_[chunk.sequence].granted = blocks;
  --chunks_left_;
  tokens_left_ -= chunk.tokens;
  rows_left_ -= chunk.logit_rows;
  available_ -= blocks;
  spend(added(chunk));
  Tenant& tenant = tenants_[sequences_[chunk.sequence].tenant];
  tenant.blocks += blocks;
  class_of(sequences_[chunk.sequence]) += blocks;
  tenant.planned += static_cast<double>(chunk.tokens * token_cost) / tenant.weight;
}

std::uint32_t Planner::least_served(List list, bool greedy) const {
  std::uint32_t best = nobody;
  for (std::uint32_t t = 0; t < tenants_.size(); ++t) {
    const Tenant& tenant = tenants_[t];
    if (tenant.greedy != greedy || tenant.next >= (tenant.*list).size()) continue;
    if (best == nobody ||
        tenant.served + tenant.planned < tenants_[best].served + tenants_[best].planned) {
      best = t;
    }
  }
  return best;
}

}  // namespace plimsoll
