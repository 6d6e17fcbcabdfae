#include "engine/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "engine/sampling/philox.h"

namespace plimsoll {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr std::size_t max_logit_bias = 1024;
constexpr std::int32_t max_top_logprobs = 20;
constexpr std::size_t few = 256;       // tokens that a nucleus mostly has at most
constexpr float greedy_below = 1e-5F;  // a temperature whose reciprocal is of no use

Error out_of_range(const char* param, const std::string& range) {
  return Error(ErrorCode::invalid_argument, std::string(param) + " must be " + range)
      .with_param(param);
}

bool within(float value, float low, float high) { return value >= low && value <= high; }

// A number no comparison trips over: NaN counts as impossible, +inf as the largest float.
float tame(float logit) {
  if (std::isnan(logit)) return minus_infinity;
  return std::min(logit, std::numeric_limits<float>::max());
}

// The likeliest, with the lowest id of equals; no_token where no logit is over -inf. A vocabulary
// has up to 262,144 logits and every token of every stream looks at all of them: so whole runs are
// looked at with as many comparisons at once as there are lanes, and then one run alone by the
// token.
struct Likeliest {
  TokenId id = no_token;
  float logit = minus_infinity;
};

Likeliest likeliest(std::span<const float> logits) {
  constexpr std::size_t lanes = 16;
  constexpr std::size_t run = 64 * lanes;
  Likeliest best;
  std::span<const float> where;
  for (std::size_t begin = 0; begin < logits.size(); begin += run) {
    const auto part = logits.subspan(begin, std::min(run, logits.size() - begin));
    std::array<float, lanes> high;
    high.fill(minus_infinity);
    std::size_t i = 0;
    for (; i + lanes <= part.size(); i += lanes) {
      // NaN is over nothing.
      for (std::size_t j = 0; j < lanes; ++j)
        high[j] = part[i + j] > high[j] ? part[i + j] : high[j];
    }
    for (; i < part.size(); ++i) high[0] = part[i] > high[0] ? part[i] : high[0];
    const float most = tame(*std::max_element(high.begin(), high.end()));
    if (most > best.logit) {
      best.logit = most;
      where = part;
    }
  }
  if (where.empty()) return best;
  const auto first =
      std::find_if(where.begin(), where.end(), [&](float logit) { return logit >= best.logit; });
  best.id = static_cast<TokenId>(&*first - logits.data());
  return best;
}

// log(sum(exp(logits))); -inf where no logit is finite.
double log_sum_exp(std::span<const float> logits) {
  float max = minus_infinity;
  for (const float logit : logits) max = std::max(max, tame(logit));
  if (max == minus_infinity) return minus_infinity;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(tame(logit) - max);
  return max + std::log(sum);
}

}  // namespace

Result<void> validate(const SamplingParams& params) {
  // Written so that NaN fails every test.
  if (!within(params.temperature, 0, 100)) {
    return fail(out_of_range("temperature", "from 0 to 100"));
  }
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return fail(out_of_range("top_p", "over 0 and at most 1"));
  }
  if (params.top_k < 0) return fail(out_of_range("top_k", "0 (all) or more"));
  if (!within(params.min_p, 0, 1)) return fail(out_of_range("min_p", "from 0 to 1"));
  if (!within(params.presence_penalty, -2, 2)) {
    return fail(out_of_range("presence_penalty", "from -2 to 2"));
  }
  if (!within(params.frequency_penalty, -2, 2)) {
    return fail(out_of_range("frequency_penalty", "from -2 to 2"));
  }
  if (params.top_logprobs < -1 || params.top_logprobs > max_top_logprobs) {
    return fail(out_of_range("top_logprobs", "from -1 (none) to 20"));
  }
  if (params.logit_bias.size() > max_logit_bias) {
    return fail(out_of_range("logit_bias", "of at most 1024 tokens"));
  }
  for (const auto& [token, bias] : params.logit_bias) {
    if (!within(bias, -100, 100)) return fail(out_of_range("logit_bias", "from -100 to 100"));
    if (token < 0) return fail(out_of_range("logit_bias", "for tokens of the vocabulary"));
  }
  return {};
}

double counter_random(std::uint64_t seed, std::uint64_t position, std::uint32_t stream) {
  const auto words = philox4x32(
      {static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), stream, 0},
      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const std::uint64_t bits = std::uint64_t{words[0]} << 32 | words[1];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

Sampler::Sampler(std::uint32_t vocab) : scratch_(vocab) { candidates_.reserve(vocab); }

std::uint64_t Sampler::bytes(std::uint32_t vocab) {
  return std::uint64_t{vocab} * (sizeof(Candidate) + sizeof(float));
}

bool Sampler::likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

SampledToken Sampler::sample(std::span<float> logits, const SamplingParams& params,
                             std::uint64_t position, std::span<const TokenId> generated) {
  SampledToken result;
  double normalizer = 0;
  if (params.top_logprobs >= 0) {
    normalizer = log_sum_exp(logits);
    fill_top(logits, normalizer, params.top_logprobs, result.top);
  }
  const auto changed = apply_penalties(logits, params, generated);
  result.id = choose(logits, params, position);
  if (result.id != no_token && params.top_logprobs >= 0) {
    float raw = tame(logits[result.id]);
    for (const auto& [id, before] : changed) {
      if (id == result.id) raw = before;
    }
    result.logprob = static_cast<float>(raw - normalizer);
  }
  return result;
}

SampledToken Sampler::score(std::span<const float> logits, TokenId id, std::int32_t top_logprobs) {
  SampledToken result;
  result.id = id;
  const double normalizer = log_sum_exp(logits);
  if (normalizer == minus_infinity) {
    result.logprob = minus_infinity;
    return result;
  }
  result.logprob = static_cast<float>(tame(logits[id]) - normalizer);
  fill_top(logits, normalizer, top_logprobs, result.top);
  return result;
}

void Sampler::fill_top(std::span<const float> logits, double normalizer, std::int32_t count,
                       std::vector<TokenLogprob>& out) {
  if (count <= 0) return;
  // The best so far, likeliest first; few, so insertion is cheaper than selecting from a copy.
  const auto n = std::min<std::size_t>(count, logits.size());
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate{tame(logits[i]), static_cast<TokenId>(i)};
    if (candidates_.size() == n) {
      if (!likelier(candidate, candidates_.back())) continue;
      candidates_.pop_back();
    }
    candidates_.insert(
        std::upper_bound(candidates_.begin(), candidates_.end(), candidate, likelier), candidate);
  }
  out.reserve(n);
  for (const Candidate& candidate : candidates_) {
    if (candidate.logit == minus_infinity) break;
    out.push_back({candidate.id, static_cast<float>(candidate.logit - normalizer)});
  }
}

std::span<const Sampler::Changed> Sampler::apply_penalties(std::span<float> logits,
                                                           const SamplingParams& params,
                                                           std::span<const TokenId> generated) {
  changed_.clear();
  const auto change = [&](TokenId id, float amount) {
    changed_.push_back({id, tame(logits[id])});
    logits[id] += amount;
  };
  const auto known = [&](TokenId id) {
    return id >= 0 && static_cast<std::size_t>(id) < logits.size();
  };
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) {
    // scratch_ counts, and is all zeros again afterwards.
    for (const TokenId id : generated) {
      if (known(id)) scratch_[id] += 1;
    }
    for (const TokenId id : generated) {
      if (!known(id) || scratch_[id] == 0) continue;
      change(id, -params.presence_penalty - params.frequency_penalty * scratch_[id]);
      scratch_[id] = 0;
    }
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (known(id)) change(id, bias);
  }
  // A token that was changed twice: its first value is the unmodified one.
  std::reverse(changed_.begin(), changed_.end());
  return changed_;
}

TokenId Sampler::choose(std::span<const float> logits, const SamplingParams& params,
                        std::uint64_t position) {
  const Likeliest found = likeliest(logits);
  const TokenId best = found.id;
  const float max = found.logit;
  if (best == no_token || params.temperature < greedy_below || params.top_k == 1) return best;

  // Weights are relative to the likeliest token, which has 1.
  const float scale = 1 / params.temperature;
  const auto weight = [&](float logit) { return std::exp((logit - max) * scale); };
  const bool top_k = params.top_k > 0 && static_cast<std::size_t>(params.top_k) < logits.size();
  double all = 0;  // the mass that top_p is a share of
  if (params.top_p < 1 && !top_k) {
    for (const float logit : logits) all += weight(tame(logit));
  }

  // Most often few tokens are kept, and found in one pass.
  if (top_k) {
    collect_likeliest(logits, params.top_k);
  } else if (params.top_p < 1) {
    double mass = 0;
    for (std::size_t count = few; mass < params.top_p * all; count *= 8) {
      collect_likeliest(logits, std::min(count, logits.size()));
      mass = 0;
      for (const Candidate& candidate : candidates_) mass += weight(candidate.logit);
      if (count >= logits.size()) break;
    }
  } else {
    collect_possible(logits, max, scale);
  }
  if (top_k && params.top_p < 1) {
    for (const Candidate& candidate : candidates_) all += weight(candidate.logit);
  }
  if (params.top_p < 1) {
    double mass = 0;
    std::size_t kept = 0;
    while (kept < candidates_.size() && mass < params.top_p * all) {
      mass += weight(candidates_[kept++].logit);
    }
    candidates_.resize(kept);
  }
  if (params.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c.logit) < params.min_p; });
  }

  double total = 0;
  for (Candidate& candidate : candidates_) {
    candidate.logit = weight(candidate.logit);
    total += candidate.logit;
  }
  double rest = counter_random(params.seed, position) * total;
  for (const Candidate& candidate : candidates_) {
    rest -= candidate.logit;
    if (rest < 0) return candidate.id;
  }
  return candidates_.back().id;  // rounding
}

// The `count` likeliest tokens, in order.
void Sampler::collect_likeliest(std::span<const float> logits, std::size_t count) {
  candidates_.clear();
  float least = minus_infinity;  // of the likeliest `count` so far
  const std::size_t most = std::min(2 * count + few, logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    // Ids rise: one that is no likelier than the last of `count` comes behind it. NaN is passed
    // over as well.
    if (!(logits[i] > least)) continue;
    candidates_.push_back({tame(logits[i]), static_cast<TokenId>(i)});
    if (candidates_.size() < most) continue;
    std::nth_element(candidates_.begin(), candidates_.begin() + count - 1, candidates_.end(),
                     likelier);
    candidates_.resize(count);
    least = candidates_.back().logit;
  }
  const auto begin = candidates_.begin();
  if (candidates_.size() > count) {
    std::nth_element(begin, begin + count, candidates_.end(), likelier);
    candidates_.resize(count);
  }
  std::sort(candidates_.begin(), candidates_.end(), likelier);
}

// Every token whose weight is not beyond the resolution of a 53-bit random number, by id.
void Sampler::collect_possible(std::span<const float> logits, float max, float scale) {
  const float least = -60 * std::log(2.0F);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = tame(logits[i]);
    if ((logit - max) * scale >= least) candidates_.push_back({logit, static_cast<TokenId>(i)});
  }
}

}  // namespace plimsoll
