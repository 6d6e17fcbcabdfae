// The step planner: which sequences get how many tokens in the next step (planner.cc), whose turn
// it is (planner_tenants.cc), and whose blocks are taken (planner_blocks.cc). Pure: what it decides
// is a function of its arguments and of the tenants' counters; it has no clock and does no I/O.
//
// Decode tokens go first, then chunks of prefill, which are kept short for those that decode
// (Agrawal et al. 2024, "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve").
// Tenants take turns by how much they were served for their weight (virtual token counters, Sheng
// et al. 2024, "Fairness in Serving Large Language Models"); within a tenant, first come, first
// served.
//
// Blocks are taken as a sequence grows, not for its whole life. Where they run out, sequences are
// preempted: those out of credit first, then the youngest of the tenant that holds most, over what
// is guaranteed to it, for its weight. The oldest sequence that can run is never preempted, so that
// somebody always finishes.
//
// So that this stays rare, a sequence starts only if what it and all that run are expected to hold
// at their end fits, beside the headroom that is kept for other classes and for tenants with a
// guarantee.
//
// What is left of a step goes to drafts (Saxena 2023, "Prompt Lookup Decoding"): tokens behind the
// one that a sequence decodes, each as long as what it is expected to save is more than what it
// takes. Where a step reads weights for few tokens, drafts cost little; where it computes for many,
// they do not pay, and there are none. They take nothing from anybody: neither places and blocks
// nor, beside other tenants, more than a fifth of a step's time.
//
// A tenant that wants more time than its max-min fair share (of the last seconds, with what its
// sequences still want, or of a step, with what of it decodes) is greedy. The others go first, and
// as long as one of them has work in a step, the greedy ones together prolong it by no more than
// their weight, nor by more than a fifth, and not at all once they have had their share, unless
// they would wait too long. While others may come at any moment, steps of greedy tenants alone are
// short. So a flood costs its own tenant its latency, and nobody else.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "engine/batching/capacity_class.h"
#include "engine/batching/step_cost.h"
#include "engine/kv/kv_layout.h"

namespace plimsoll {

struct PlannerLimits {
  std::uint32_t tokens = 512;  // in one step
  std::uint32_t sequences = 64;
  std::uint32_t logit_rows = 64;
  std::uint32_t chunk_tokens = 256;  // of one sequence in one step
  // Waiting sequences may start. If not: only within what is guaranteed to their tenant.
  bool admits = true;
  // Blocks that are kept for each class: the others may not take them.
  std::array<std::uint32_t, capacity_classes> headroom{};
  // Of a step of greedy tenants alone, while others may come.
  double greedy_step_seconds = 0.006;
  // Of a step in which sequences decode: prompts are cut into chunks for it
  // (StepCost::prefill_seconds).
  double decode_step_seconds = 0.03;
};

struct PlannerSequence {
  enum class State : std::uint8_t {
    waiting,  // holds no blocks
    running,
    paused,  // holds blocks, but is out of credit
  };
  std::uint32_t tenant = 0;  // an index that the caller gives out
  std::uint64_t order = 0;   // of arrival
  State state = State::waiting;
  CapacityClass capacity_class = CapacityClass::low_latency;
  // Tokens whose keys and values are in its blocks, or are expected to be found once it starts.
  std::uint32_t computed = 0;
  std::uint32_t target = 0;  // tokens to be computed before it samples or ends; over `computed`
  bool samples = true;       // takes a logit row at target - 1
  // Positions whose logits are wanted besides: [score_from, score_until).
  std::uint32_t score_from = 0, score_until = 0;
  // If it decodes: so many tokens may be drafted, each right with this chance if those before it
  // are.
  std::uint32_t drafts = 0;
  double draft_chance = 0;
  std::uint32_t reserve = 0;   // rows that its block table is expected to have at its end
  std::uint32_t rows = 0;      // that it has
  std::uint32_t blocks = 0;    // held
  std::uint32_t freeable = 0;  // of them, those that preempting it would make available
};

struct PlannedChunk {
  std::uint32_t sequence = 0;  // index into the caller's span
  std::uint32_t tokens = 0;
  std::uint32_t logit_rows = 0;
  std::uint32_t drafts = 0;  // tokens, with a logit row each, behind those
};

struct StepPlan {
  std::vector<std::uint32_t> preempted;  // to be done first; sequences of none of the chunks
  std::vector<PlannedChunk> chunks;
};

class Planner {
 public:
  Planner(const PlannerLimits& limits, const KvDemand& demand);

  void set_limits(const PlannerLimits& limits) { limits_ = limits; }
  const PlannerLimits& limits() const { return limits_; }

  // What a token costs its tenant; an output token is computed on its own, a prompt's with others.
  static constexpr std::uint64_t prompt_token_cost = 1;
  static constexpr std::uint64_t output_token_cost = 2;

  // The tenant has work again: its counter is lifted to the least of the active ones, so that
  // idleness saves nothing up. Of tenants that want more than there is, one of twice the weight
  // gets twice the service, places and blocks. `guaranteed` blocks are kept for it until it is
  // forgotten, and not taken from it. The last weight (over 0) and guarantee given count.
  void activate(std::uint32_t tenant, double weight = 1.0, std::uint32_t guaranteed = 0);
  void deactivate(std::uint32_t tenant);  // it has no sequence left
  void forget(std::uint32_t tenant);      // the index will stand for somebody else
  void serve(std::uint32_t tenant, std::uint64_t cost) {
    tenants_[tenant].served += static_cast<double>(cost) / tenants_[tenant].weight;
  }
  double served(std::uint32_t tenant) const { return tenants_[tenant].served; }  // cost / weight

  // What a step takes. As long as it is not known, nobody is greedy; and no prompt is cut for those
  // that decode until it is sure: steps that are kept small would never show that it is less.
  void set_cost(const StepCost& cost, bool sure = true) {
    cost_ = cost;
    cost_is_sure_ = sure;
  }
  // Time has passed, in which a tenant's chunks added so many seconds to a step. What was long ago
  // is forgotten.
  void pass(double seconds);
  void use(std::uint32_t tenant, double seconds) { tenants_[tenant].used += seconds; }
  bool greedy(std::uint32_t tenant) const { return tenants_[tenant].greedy; }  // in the last plan

  // `sequences` are all there are, in order of arrival; their tenants are active. Each can fit into
  // `capacity` blocks alone. `available` blocks are free or can be made so at once. A waiting
  // sequence's chunk leaves room for all its blocks, since some of them may be found in the prefix
  // tree. The result is valid until the next call; it has chunks unless all sequences are paused.
  const StepPlan& plan(std::span<const PlannerSequence> sequences, std::uint32_t available,
                       std::uint32_t capacity);

  // Whose blocks to take when the pool has to shrink: of the tenant that holds most for its weight,
  // the youngest sequence, or with `longest` the one that holds most if that tenant is over its
  // share. That is of `capacity`, the whole pool, however little is to be left of it: who keeps to
  // it is not at fault. `sequences` hold blocks. The oldest that can run is never given.
  struct Victim {
    std::uint32_t sequence = 0;  // an index
    bool over_share = false;     // its tenant holds more than its share of the pool
  };
  std::optional<Victim> shed_victim(std::span<const PlannerSequence> sequences,
                                    std::uint32_t capacity, bool longest);

  // The largest chunk of a sequence within these budgets, with its logit rows. A chunk that wants
  // scores ends where they end. No tokens if nothing fits.
  static PlannedChunk fit(const PlannerSequence& sequence, std::uint32_t tokens,
                          std::uint32_t logit_rows);
  // Whether all it wants is the token behind its last one.
  static bool decodes(const PlannerSequence& sequence) {
    return sequence.state == State::running && sequence.samples &&
           sequence.target - sequence.computed == 1 && sequence.computed >= sequence.score_until;
  }

 private:
  using State = PlannerSequence::State;
  static constexpr std::uint32_t nobody = ~std::uint32_t{0};
  static constexpr double no_limit = std::numeric_limits<double>::infinity();

  // Over which use is remembered, and the part of that time that tenants may want before the most
  // demanding of them is greedy: where more of it is used, others begin to wait.
  static constexpr double memory_seconds = 10;
  static constexpr double usable_share = 0.5;
  // Of a step with others in it, what greedy tenants may take: a fifth as long again.
  static constexpr double most_greedy_share = 1.0 / 6;
  // What greedy tenants that have had their share may add to the steps of others: nothing, but
  // where these leave no gap for so long, a part of each step.
  static constexpr double patience_seconds = 1;
  static constexpr double least_greedy_share = 0.05;
  // By what drafts may prolong a step with several tenants in it, and how many times what it takes
  // a draft is to be worth: both are estimates.
  static constexpr double most_draft_share = 0.2;
  static constexpr double draft_margin = 1.25;

  struct Tenant {
    bool active = false;
    double weight = 1;
    std::uint32_t guaranteed = 0;  // blocks
    double served = 0;
    double used = 0;  // seconds, of the last memory_seconds
    // Of the current plan:
    double planned = 0;
    double wanted = 0;  // seconds, of all its sequences
    double decode_seconds = 0;
    bool greedy = false, was_greedy = false;
    double demand = 0;                             // seconds, of which there may be too few
    std::uint32_t blocks = 0, places = 0;          // held
    std::uint32_t reserved = 0;                    // blocks, as last counted
    std::vector<std::uint32_t> decodes, prefills;  // in order of arrival
    std::size_t next = 0;
  };
  // What the current plan has done with a sequence.
  struct Fate {
    bool preempted = false;
    PlannedChunk chunk;
    std::uint32_t granted = 0;  // blocks
  };
  using List = std::vector<std::uint32_t> Tenant::*;

  void read();
  void find_greedy();
  void find_over_share(double seconds, double least);
  double decode_seconds(bool greedy) const;
  double prefill_seconds(double decode_seconds) const;
  void plan_greedy();
  void plan_decodes(bool greedy);
  void plan_prefills(bool greedy);
  std::uint32_t affordable(const PlannerSequence& sequence, std::int64_t tokens) const;
  double added(const PlannedChunk& chunk) const {
    return cost_.added(sequences_[chunk.sequence].computed, chunk.tokens, chunk.logit_rows);
  }
  void spend(double seconds) {
    planned_seconds_ += seconds;
    seconds_left_ -= seconds;
  }
  void plan_oldest();
  void plan_drafts();
  bool room_for_draft(const PlannedChunk& chunk);
  bool admit(std::uint32_t index);
  bool make_room(std::uint32_t index, std::uint32_t blocks);
  std::uint32_t kept_for_others(const PlannerSequence& sequence) const;
  std::uint32_t needed(const PlannerSequence& sequence) const {  // blocks, at its end
    return demand_.blocks(std::max(sequence.reserve, demand_.rows(sequence.target)));
  }
  std::uint32_t& class_of(const PlannerSequence& sequence) {
    return class_blocks_[static_cast<std::size_t>(sequence.capacity_class)];
  }
  // Over its guarantee, for its weight.
  static double excess(const Tenant& tenant) {
    return (tenant.blocks - std::min(tenant.blocks, tenant.guaranteed)) / tenant.weight;
  }
  bool over_share(const Tenant& tenant, std::uint32_t blocks, std::uint32_t capacity) const {
    return blocks > tenant.guaranteed && !within_share(tenant, blocks, capacity);
  }
  void add_chunk(PlannedChunk chunk, std::uint32_t blocks, std::uint64_t token_cost);
  std::uint32_t least_served(List list, bool greedy) const;
  enum class Victims : std::uint8_t { paused, over_blocks, over_places, any };
  std::uint32_t find_victim(Victims from, std::uint32_t for_tenant);
  void count_reserved();
  void preempt(std::uint32_t index);
  void undo_preempt(std::uint32_t index);

  // Tokens that it can go on with, with so many blocks more.
  std::int64_t room(const PlannerSequence& sequence, std::int64_t blocks) const {
    const std::int64_t rows =
        sequence.rows + std::max<std::int64_t>(blocks, 0) / demand_.layer_groups();
    return rows * demand_.block_tokens - sequence.computed;
  }
  std::uint32_t growth(std::uint32_t index, std::uint32_t tokens) const;
  std::uint32_t held_blocks(std::uint32_t index) const {
    return sequences_[index].blocks + fates_[index].granted;
  }
  std::uint32_t missing_blocks(std::uint32_t index) const;
  std::int64_t spare_blocks() const;
  // Whether a tenant that holds so much of a whole is within its share of it.
  bool within_share(const Tenant& tenant, double held, double all) const {
    return held * weights_ <= all * tenant.weight;
  }

  PlannerLimits limits_;
  KvDemand demand_;
  std::vector<Tenant> tenants_;
  double last_served_ = 0;  // of the tenant that last became inactive
  StepCost cost_;
  bool cost_is_sure_ = false;
  double greedy_credit_ = 0;      // seconds
  double held_back_seconds_ = 0;  // since greedy tenants had a step of their own
  bool greedy_decodes_first_ = true;

  // Of the current plan:
  StepPlan plan_;
  std::span<const PlannerSequence> sequences_;
  std::vector<Fate> fates_;
  std::vector<std::uint32_t> chosen_;                           // decodes
  std::uint32_t oldest_ = nobody;                               // of the running
  std::array<std::uint32_t, capacity_classes> class_blocks_{};  // held
  double weights_ = 0;                                          // of all tenants with a sequence
  std::uint32_t places_ = 0;                                    // taken by running sequences
  std::uint32_t capacity_ = 0;
  std::int64_t available_ = 0;
  std::uint32_t places_cap_ = 0;
  std::uint32_t chunks_left_ = 0, tokens_left_ = 0, rows_left_ = 0;
  double planned_seconds_ = 0;            // that all chunks add to the step
  double most_seconds_ = 0;               // that they may, prompts included
  double seconds_left_ = 0;               // for those that are planned now
  std::vector<std::uint32_t> by_demand_;  // tenants
};

}  // namespace plimsoll
