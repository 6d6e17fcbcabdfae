// The planner's blocks: what sequences hold and will, and from whom they are taken.
#include <algorithm>
#include <cassert>

#include "engine/batching/planner.h"

namespace plimsoll {

std::optional<Planner::Victim> Planner::shed_victim(std::span<const PlannerSequence> sequences,
                                                    std::uint32_t capacity, bool longest) {
  sequences_ = sequences;
  capacity_ = capacity;
  fates_.assign(sequences.size(), {});
  read();
  const std::uint32_t youngest = find_victim(Victims::any, nobody);
  if (youngest == nobody) return std::nullopt;
  Victim victim{youngest, false};
  const std::uint32_t t = sequences[youngest].tenant;
  // Alone it is its own share: what it may hold is what the others leave.
  victim.over_share =
      std::ranges::any_of(sequences, [&](const auto& s) { return s.tenant != t; }) &&
      over_share(tenants_[t], tenants_[t].blocks, capacity);
  if (!longest || !victim.over_share) return victim;
  for (std::uint32_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].tenant != t || i == oldest_) continue;
    if (sequences[i].blocks > sequences[victim.sequence].blocks) victim.sequence = i;
  }
  return victim;
}

// A place and this many blocks for a waiting sequence. Takes them from paused sequences and, for a
// tenant within its share, from those over theirs. False if that is not enough.
bool Planner::make_room(std::uint32_t index, std::uint32_t blocks) {
  const std::uint32_t t = sequences_[index].tenant;
  const Tenant& tenant = tenants_[t];
  const bool place_is_due =
      tenant.places == 0 || within_share(tenant, tenant.places + 1.0, places_cap_);
  const bool blocks_are_due = within_share(tenant, 0.0 + tenant.blocks + blocks, capacity_);
  while (true) {
    const bool place = places_ < places_cap_;
    // Each running sequence may grow by a row before this one is preempted again for it. What is
    // more than the whole pool can start when the pool is empty.
    const std::int64_t wanted = std::int64_t{blocks} + places_ * demand_.layer_groups() +
                                kept_for_others(sequences_[index]);
    const bool room = spare_blocks() >= std::min<std::int64_t>(wanted, capacity_);
    if (place && room) return true;
    std::uint32_t taken = room ? nobody : find_victim(Victims::paused, nobody);
    if (taken == nobody && !room && blocks_are_due) taken = find_victim(Victims::over_blocks, t);
    if (taken == nobody && room && place_is_due) taken = find_victim(Victims::over_places, t);
    if (taken == nobody) return false;
    preempt(taken);
  }
}

// Headroom of other classes, or guarantees of other tenants, that is not in use. The larger of the
// two: a tenant's guarantee may be met out of its class's headroom.
std::uint32_t Planner::kept_for_others(const PlannerSequence& sequence) const {
  std::uint32_t of_classes = 0;
  for (std::size_t c = 0; c < capacity_classes; ++c) {
    if (c == static_cast<std::size_t>(sequence.capacity_class)) continue;
    of_classes += limits_.headroom[c] - std::min(limits_.headroom[c], class_blocks_[c]);
  }
  std::uint32_t of_tenants = 0;
  for (std::uint32_t t = 0; t < tenants_.size(); ++t) {
    if (t == sequence.tenant) continue;
    of_tenants += tenants_[t].guaranteed - std::min(tenants_[t].guaranteed, tenants_[t].blocks);
  }
  return std::max(of_classes, of_tenants);
}

// What those that run will hold at their end is as little there for others as what they hold.
void Planner::count_reserved() {
  for (Tenant& tenant : tenants_) tenant.reserved = 0;
  for (std::uint32_t i = 0; i < sequences_.size(); ++i) {
    if (fates_[i].preempted) continue;
    tenants_[sequences_[i].tenant].reserved += held_blocks(i) + missing_blocks(i);
  }
}

// The youngest, of the tenant that holds most for its weight; of blocks, over its guarantee.
std::uint32_t Planner::find_victim(Victims from, std::uint32_t for_tenant) {
  if (from == Victims::over_blocks) count_reserved();
  std::uint32_t best = nobody;
  for (std::uint32_t i = 0; i < sequences_.size(); ++i) {
    const PlannerSequence& sequence = sequences_[i];
    if (fates_[i].preempted || i == oldest_ || sequence.state == State::waiting) continue;
    const Tenant& tenant = tenants_[sequence.tenant];
    switch (from) {
      case Victims::paused:
        if (sequence.state != State::paused) continue;
        break;
      case Victims::over_blocks:
        if (sequence.tenant == for_tenant || !over_share(tenant, tenant.reserved, capacity_)) {
          continue;
        }
        break;
      case Victims::over_places:
        if (sequence.state == State::paused || sequence.tenant == for_tenant ||
            tenant.places <= 1 || within_share(tenant, tenant.places, places_cap_)) {
          continue;
        }
        break;
      case Victims::any: break;
    }
    const auto held = [&](const PlannerSequence& s) {
      const Tenant& owner = tenants_[s.tenant];
      return from == Victims::over_places ? owner.places / owner.weight : excess(owner);
    };
    // Later in the span is younger.
    if (best == nobody || held(sequence) > held(sequences_[best]) ||
        sequence.tenant == sequences_[best].tenant) {
      best = i;
    }
  }
  return best;
}

// Its chunk, if it has one, is taken out of the plan at the end.
void Planner::preempt(std::uint32_t index) {
  const PlannerSequence& sequence = sequences_[index];
  Fate& fate = fates_[index];
  fate.preempted = true;
  plan_.preempted.push_back(index);
  available_ += sequence.freeable + fate.granted;
  chunks_left_ += fate.chunk.tokens > 0;
  tokens_left_ += fate.chunk.tokens;
  rows_left_ += fate.chunk.logit_rows;
  spend(-added(fate.chunk));
  Tenant& tenant = tenants_[sequence.tenant];
  tenant.blocks -= sequence.blocks + fate.granted;
  class_of(sequence) -= sequence.blocks + fate.granted;
  if (sequence.state == State::running) {
    --places_;
    --tenant.places;
  }
}

void Planner::undo_preempt(std::uint32_t index) {
  const PlannerSequence& sequence = sequences_[index];
  Fate& fate = fates_[index];
  assert(plan_.preempted.back() == index);
  plan_.preempted.pop_back();
  fate.preempted = false;
  available_ -= sequence.freeable + fate.granted;
  chunks_left_ -= fate.chunk.tokens > 0;
  tokens_left_ -= fate.chunk.tokens;
  rows_left_ -= fate.chunk.logit_rows;
  spend(added(fate.chunk));
  Tenant& tenant = tenants_[sequence.tenant];
  tenant.blocks += sequence.blocks + fate.granted;
  class_of(sequence) += sequence.blocks + fate.granted;
  if (sequence.state == State::running) {
    ++places_;
    ++tenant.places;
  }
}

std::uint32_t Planner::growth(std::uint32_t index, std::uint32_t tokens) const {
  const PlannerSequence& sequence = sequences_[index];
  const std::uint32_t rows = demand_.rows(sequence.computed + tokens);
  return rows > sequence.rows ? (rows - sequence.rows) * demand_.layer_groups() : 0;
}

// What a sequence that runs is expected to take still.
std::uint32_t Planner::missing_blocks(std::uint32_t index) const {
  const PlannerSequence& sequence = sequences_[index];
  if (sequence.state != State::running && fates_[index].granted == 0) return 0;
  const std::uint32_t wanted = needed(sequence);
  return wanted - std::min(wanted, held_blocks(index));
}

// Available, less what those that run are expected to take still.
std::int64_t Planner::spare_blocks() const {
  std::int64_t spare = available_;
  for (std::uint32_t i = 0; i < sequences_.size(); ++i) {
    if (!fates_[i].preempted) spare -= missing_blocks(i);
  }
  return spare;
}

}  // namespace plimsoll
