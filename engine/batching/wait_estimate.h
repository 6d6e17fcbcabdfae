// How long a sequence would wait for its first token, if it came now: what admission refuses by,
// before a queue has become longer than anybody wants to wait.
#pragma once

#include <cstdint>
#include <span>

#include "engine/batching/step_cost.h"

namespace plimsoll {

// Of one tenant: its sequences that have no token yet.
struct Backlog {
  double weight = 1;
  std::uint32_t waiting = 0;  // sequences that have not started
  double seconds = 0;         // that their prompts add to steps (StepCost)
  std::uint32_t running = 0;  // places that it holds
};

// How fast backlogs go down.
struct Pace {
  StepCost cost;             // all zero: not known
  std::uint32_t tokens = 1;  // in a step
  double step_seconds = 0;   // that a step in which sequences decode is to take
  std::uint32_t running = 0;
  double life_seconds = 0;       // of those that run, from start to end, mean; 0: none runs
  std::uint32_t places = ~0U;    // for running sequences; a tenant within its part gets one at once
  double starts_per_second = 0;  // of sequences, while some wait; 0: none waits

  // Seconds that pass for each second that prompts take, while so many sequences decode.
  double stretch(double decoding) const;
};

struct ExpectedWait {
  double before = 0;  // seconds, until its prompt's turn
  double prompt = 0;  // seconds more, until its first token
};

// Tenants are served side by side, by weight: whoever has less ahead of it waits for less of the
// others' (generalized processor sharing, Parekh and Gallager 1993). `own` is the tenant's backlog
// without the new sequence, whose prompt adds `seconds` to steps.
ExpectedWait expected_wait(const Backlog& own, double seconds, std::span<const Backlog> others,
                           const Pace& pace);

// By what expectations are to be multiplied for 99 of 100 first tokens to come in time: up a good
// step for each that is later, down a hundredth of it for the others (Robbins and Monro 1951).
class LatenessBound {
 public:
  void observe(double expected_seconds, double seconds);
  double factor() const { return factor_; }

 private:
  static constexpr double step = 0.1, kept = 0.99;
  static constexpr double least = 1, most = 8;
  double factor_ = 1.25;
};

// Sequences that start while others wait, over the last seconds. Where little was seen,
// `expected` counts, a rate that follows from how long those that run still need.
class StartRate {
 public:
  void pass(double seconds, std::uint32_t started);
  double per_second(double expected) const;

 private:
  static constexpr double memory_seconds = 5;
  static constexpr double prior_seconds = 1;
  double starts_ = 0, seconds_ = 0;
};

}  // namespace plimsoll
