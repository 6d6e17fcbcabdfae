// What a step takes, learnt from those that ran: what the planner may put into one without holding
// up whoever else is in it, and how long a queue will take.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace plimsoll {

// seconds = base + per_token * tokens + per_attended * attended + per_row * rows, where a token
// that attends to n positions counts n, and rows are those of logits, each with what is sampled
// from it. The base is what a step takes however little is in it: reading the weights.
struct StepCost {
  double base = 0;
  double per_token = 0;
  double per_attended = 0;
  double per_row = 0;

  // What a chunk adds to a step: `tokens` behind `context` that are computed already.
  double added(std::uint32_t context, std::uint32_t tokens, std::uint32_t rows = 0) const {
    return tokens * (per_token + per_attended * (context + tokens / 2.0)) + rows * per_row;
  }
  // How many tokens behind `context` may be added in so many seconds; 0 if not even one.
  std::uint32_t tokens_within(double seconds, std::uint32_t context) const;
  // What prompts may add to a step that is to take `step_seconds`, of which decoding takes
  // `decode_seconds`. Where this alone takes most of it, they may double the step instead.
  double prefill_seconds(double decode_seconds, double step_seconds) const;
  bool known() const { return per_token > 0; }
};

// Steps are kept by their size, a running mean for each: a long time of small steps does not make
// it forget what large ones take. A cost is fitted to the means, each by its relative error. What
// the last steps took beside that, where others use the machine too, counts for all.
class StepCostEstimate {
 public:
  // With a given cost it learns nothing.
  explicit StepCostEstimate(const std::optional<StepCost>& given = {})
      : given_(given.has_value()), cost_(given.value_or(StepCost{})), sure_(given_) {}
  void add(std::uint32_t tokens, std::uint64_t attended, std::uint32_t rows, double seconds);
  // Unknown (all zero) until a step was seen. As long as all were about the same size, their whole
  // time is taken to be their tokens'.
  const StepCost& cost() const { return cost_; }
  bool sure() const { return sure_; }  // steps of different sizes were seen

 private:
  // By their binary logarithms: tokens, mean positions attended to, rows.
  static constexpr std::size_t sizes = 12, contexts = 10, row_counts = 9;
  static constexpr double keep = 0.9;  // of a mean, when a step is added to it
  static constexpr double most_slowness = 4;

  struct Mean {
    double weight = 0, tokens = 0, attended = 0, rows = 0, seconds = 0;
  };
  void fit();

  std::array<std::uint16_t, sizes * contexts * row_counts> index_{};  // in means_, from 1 on
  std::vector<Mean> means_;
  StepCost fitted_;
  double slowness_ = 1;  // of the last steps, to what was fitted
  bool given_;
  StepCost cost_;
  bool sure_;
};

}  // namespace plimsoll
