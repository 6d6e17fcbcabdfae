// Sampling of one token from one row of logits.
//
// Random numbers are counter-based (Philox4x32-10, Salmon et al. 2011): a function of (seed,
// position) alone, so a sequence gives the same text in any batch and after any preemption or
// failover.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/types.h"

namespace plimsoll {

struct SamplingParams {
  float temperature = 1.0F;       // 0: greedy
  float top_p = 1.0F;             // nucleus (Holtzman et al. 2020), in (0, 1]
  std::int32_t top_k = 0;         // 0: all
  float min_p = 0.0F;             // relative to the likeliest token, in [0, 1]
  float presence_penalty = 0.0F;  // OpenAI's definitions, over the generated tokens; [-2, 2]
  float frequency_penalty = 0.0F;
  std::uint64_t seed = 0;
  std::int32_t top_logprobs = -1;  // -1: no logprobs; n: the token's own and the n likeliest
  std::vector<std::pair<TokenId, float>> logit_bias;  // at most 1024
};

// Errors: invalid_argument with `param` set: NaN, out of range.
Result<void> validate(const SamplingParams& params);

struct TokenLogprob {
  TokenId id = no_token;
  float logprob = 0.0F;
};

struct SampledToken {
  TokenId id = no_token;
  float logprob = 0.0F;           // of the unmodified distribution; 0 if not asked for
  std::vector<TokenLogprob> top;  // likeliest first
};

// The uniform number in [0, 1) of (seed, position, stream).
double counter_random(std::uint64_t seed, std::uint64_t position, std::uint32_t stream = 0);

// Reused across steps: holds scratch of the vocabulary's size. A logit that is NaN counts as -inf.
// Among equal logits the lower token id comes first.
class Sampler {
 public:
  explicit Sampler(std::uint32_t vocab);
  static std::uint64_t bytes(std::uint32_t vocab);  // of the scratch

  // `position` is the index of the new token in its sequence (prompt included). `generated` are
  // the tokens the penalties count. logits [vocab] may be overwritten. Truncation goes top_k,
  // top_p, min_p, at the given temperature. The id is no_token if no logit is a number over -inf.
  SampledToken sample(std::span<float> logits, const SamplingParams& params, std::uint64_t position,
                      std::span<const TokenId> generated);
  // The log-probability of `id` in these logits, with the n likeliest. For prompt log-probs.
  SampledToken score(std::span<const float> logits, TokenId id, std::int32_t top_logprobs);

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  struct Changed {
    TokenId id;
    float before;
  };
  static bool likelier(const Candidate& a, const Candidate& b);
  void fill_top(std::span<const float> logits, double normalizer, std::int32_t count,
                std::vector<TokenLogprob>& out);
  // What it changed, the unmodified value of a token last.
  std::span<const Changed> apply_penalties(std::span<float> logits, const SamplingParams& params,
                                           std::span<const TokenId> generated);
  TokenId choose(std::span<const float> logits, const SamplingParams& params,
                 std::uint64_t position);
  void collect_likeliest(std::span<const float> logits, std::size_t count);
  void collect_possible(std::span<const float> logits, float max, float scale);

  std::vector<Candidate> candidates_;
  std::vector<Changed> changed_;
  std::vector<float> scratch_;
};

}  // namespace plimsoll
