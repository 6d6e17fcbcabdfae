#include "engine/batching/step_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace plimsoll {
namespace {

constexpr std::size_t terms = 4;
using Terms = std::array<double, terms>;
using Row = std::array<double, terms + 1>;  // the coefficients, and the right side

// Gauss's elimination with pivoting; what cannot be told from the others is 0.
Terms solve(std::array<Row, terms> rows) {
  Terms scales;
  for (std::size_t i = 0; i < terms; ++i) scales[i] = std::abs(rows[i][i]);
  std::array<std::size_t, terms> row_of;
  row_of.fill(terms);
  std::size_t next = 0;
  for (std::size_t column = 0; column < terms; ++column) {
    std::size_t pivot = next;
    for (std::size_t i = next + 1; i < terms; ++i) {
      if (std::abs(rows[i][column]) > std::abs(rows[pivot][column])) pivot = i;
    }
    if (std::abs(rows[pivot][column]) <= 1e-9 * scales[column]) continue;
    std::swap(rows[next], rows[pivot]);
    for (std::size_t i = 0; i < terms; ++i) {
      if (i == next) continue;
      const double factor = rows[i][column] / rows[next][column];
      for (std::size_t j = column; j <= terms; ++j) rows[i][j] -= factor * rows[next][j];
    }
    row_of[column] = next++;
  }
  Terms out{};
  for (std::size_t column = 0; column < terms; ++column) {
    if (row_of[column] == terms) continue;
    const Row& row = rows[row_of[column]];
    out[column] = row[terms] / row[column];
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

double StepCost::prefill_seconds(double decode_seconds, double step_seconds) const {
  const double least = base + decode_seconds;
  return std::max(step_seconds - least, least);
}

void StepCostEstimate::add(std::uint32_t tokens, std::uint64_t attended, std::uint32_t rows,
                           double seconds) {
  if (given_ || tokens == 0 || !(seconds > 0)) return;
  if (sure_) {
    const double expected = fitted_.base + fitted_.per_token * tokens +
                            fitted_.per_attended * static_cast<double>(attended) +
                            fitted_.per_row * rows;
    const double ratio = std::clamp(seconds / expected, 1 / most_slowness, most_slowness);
    slowness_ = keep * slowness_ + (1 - keep) * ratio;
  }
  const auto bits = [](std::uint64_t value, std::size_t most) {
    return std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(value)), most - 1);
  };
  const std::size_t at =
      (bits(tokens, sizes) * contexts + bits(attended / tokens / 16, contexts)) * row_counts +
      bits(rows, row_counts);
  if (index_[at] == 0) {
    means_.emplace_back();
    index_[at] = static_cast<std::uint16_t>(means_.size());
  }
  Mean& mean = means_[index_[at] - 1];
  // The first ones count alike, so that a first step that was slow is soon outweighed.
  const double share = std::max(1 - keep, 1 / (mean.weight + 1));
  const auto move = [share](double& to, double value) { to += share * (value - to); };
  mean.weight += 1;
  move(mean.tokens, tokens);
  move(mean.attended, static_cast<double>(attended));
  move(mean.rows, rows);
  move(mean.seconds, seconds);
  fit();
  cost_ = {slowness_ * fitted_.base, slowness_ * fitted_.per_token,
           slowness_ * fitted_.per_attended, slowness_ * fitted_.per_row};
}

void StepCostEstimate::fit() {
  double least = means_.front().tokens, most = 0, tokens = 0, seconds = 0;
  for (const Mean& mean : means_) {
    least = std::min(least, mean.tokens);
    most = std::max(most, mean.tokens);
    tokens += mean.tokens;
    seconds += mean.seconds;
  }
  if (most < 4 * least) {
    fitted_ = {0, seconds / tokens, 0, 0};
    return;
  }
  std::array<Row, terms> all{};
  for (const Mean& mean : means_) {
    const Terms x = {1, mean.tokens, mean.attended, mean.rows};
    const double weight = std::min(mean.weight, 10.0) / (mean.seconds * mean.seconds);
    for (std::size_t i = 0; i < terms; ++i) {
      for (std::size_t j = 0; j < terms; ++j) all[i][j] += weight * x[i] * x[j];
      all[i][terms] += weight * x[i] * mean.seconds;
    }
  }
  // What cannot be told from the number of tokens is theirs (a little ridge on the others).
  for (const std::size_t i : {2, 3}) all[i][i] *= 1.01;
  // A coefficient below nothing is none: it is left out, and the others are fitted again.
  std::array<bool, terms> used = {true, true, true, true};
  Terms fitted{};
  for (std::size_t round = 0; round < terms; ++round) {
    auto rows = all;
    for (std::size_t i = 0; i < terms; ++i) {
      for (std::size_t j = 0; j < terms; ++j) {
        if (!used[i] || !used[j]) rows[i][j] = 0;
      }
      if (!used[i]) rows[i][terms] = 0;
    }
    fitted = solve(rows);
    std::size_t left_out = terms;
    for (std::size_t i = terms; i-- > 0 && left_out == terms;) {
      if (fitted[i] < 0) left_out = i;
    }
    if (left_out == terms) break;
    used[left_out] = false;
  }
  for (double& value : fitted) value = std::max(0.0, value);
  // A token that costs nothing would make every queue short.
  fitted[1] = std::max(fitted[1], 1e-3 * fitted[0]);
  if (fitted[1] == 0) return;
  fitted_ = {fitted[0], fitted[1], fitted[2], fitted[3]};
  sure_ = true;
}

}  // namespace plimsoll
