#include "engine/batching/step_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace plimsoll {
namespace {

using Row = std::array<double, 4>;  // three coefficients, and the right side

// Gauss's elimination with pivoting; what cannot be told from the others is 0.
std::array<double, 3> solve(std::array<Row, 3> rows) {
  std::array<double, 3> out{};
  std::array<bool, 3> found{};
  for (std::size_t column = 0; column < 3; ++column) {
    const double scale = rows[column][column];
    std::size_t pivot = column;
    for (std::size_t i = column + 1; i < 3; ++i) {
      if (std::abs(rows[i][column]) > std::abs(rows[pivot][column])) pivot = i;
    }
    std::swap(rows[column], rows[pivot]);
    if (std::abs(rows[column][column]) <= 1e-9 * std::abs(scale) || rows[column][column] == 0) {
      continue;
    }
    found[column] = true;
    for (std::size_t i = 0; i < 3; ++i) {
      if (i == column) continue;
      const double factor = rows[i][column] / rows[column][column];
      for (std::size_t j = column; j < 4; ++j) rows[i][j] -= factor * rows[column][j];
    }
  }
  for (std::size_t column = 0; column < 3; ++column) {
    if (found[column]) out[column] = rows[column][3] / rows[column][column];
  }
  return out;
}

}  // namespace

std::uint32_t StepCost::tokens_within(double seconds, std::uint32_t context) const {
  // added(context, n) = seconds, solved for n.
  const double linear = per_token + per_attended * context;
  const double square = per_attended / 2;
  if (seconds <= 0 || linear <= 0) return 0;
  const double root = std::sqrt(linear * linear + 4 * square * seconds);
  const double tokens = 2 * seconds / (linear + root);
  constexpr double rounding = 1 + 1e-9;
  return static_cast<std::uint32_t>(std::min(tokens * rounding, 1e9));
}

void StepCostEstimate::add(std::uint32_t tokens, std::uint64_t attended, double seconds) {
  if (tokens == 0 || !(seconds > 0)) return;
  const auto bit = [](std::uint64_t value, std::size_t most) {
    return std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(value)), most) - 1;
  };
  const std::uint64_t context = std::max<std::uint64_t>(1, attended / tokens / 16);
  Mean& mean = means_[bit(tokens, sizes) * contexts + bit(context, contexts)];
  // The first ones count alike, so that a first step that was slow is soon outweighed.
  const double share = std::max(1 - keep, 1 / (mean.weight + 1));
  mean.weight += 1;
  mean.tokens += share * (tokens - mean.tokens);
  mean.attended += share * (static_cast<double>(attended) - mean.attended);
  mean.seconds += share * (seconds - mean.seconds);
  fit();
}

void StepCostEstimate::fit() {
  double least = 0, most = 0, tokens = 0, seconds = 0;
  for (const Mean& mean : means_) {
    if (mean.weight == 0) continue;
    least = least == 0 ? mean.tokens : std::min(least, mean.tokens);
    most = std::max(most, mean.tokens);
    tokens += mean.tokens;
    seconds += mean.seconds;
  }
  if (most < 4 * least) {
    cost_ = {0, seconds / tokens, 0};
    return;
  }
  // A coefficient below nothing is none: it is left out, and the others are fitted again.
  std::array<bool, 3> used = {true, true, true};
  std::array<double, 3> fitted{};
  for (int round = 0; round < 3; ++round) {
    std::array<Row, 3> rows{};
    for (const Mean& mean : means_) {
      if (mean.weight == 0) continue;
      const std::array<double, 3> x = {1, mean.tokens, mean.attended};
      const double weight = std::min(mean.weight, 10.0) / (mean.seconds * mean.seconds);
      for (std::size_t i = 0; i < 3; ++i) {
        if (!used[i]) continue;
        for (std::size_t j = 0; j < 3; ++j) {
          if (used[j]) rows[i][j] += weight * x[i] * x[j];
        }
        rows[i][3] += weight * x[i] * mean.seconds;
      }
    }
    fitted = solve(rows);
    std::size_t worst = 3;
    for (std::size_t i = 0; i < 3; ++i) {
      if (fitted[i] < 0 && (worst == 3 || i > worst)) worst = i;
    }
    if (worst == 3) break;
    used[worst] = false;
    fitted[worst] = 0;
  }
  if (fitted[1] > 0) cost_ = {std::max(0.0, fitted[0]), fitted[1], std::max(0.0, fitted[2])};
}

}  // namespace plimsoll
