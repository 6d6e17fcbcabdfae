#include "cli/scorecard/workload.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace plimsoll::cli::scorecard {

namespace {

// Short and common: a token each in most vocabularies.
constexpr std::array words = {"the",  "sea",   "ship", "water", "line", "load", "mark", "deck",
                              "port", "wind",  "wave", "sail",  "rope", "tide", "salt", "fish",
                              "bird", "north", "east", "south", "west", "long", "deep", "cold"};

}  // namespace

MixSource::MixSource(Mix mix, std::uint64_t seed, double length_scale)
    : mix_(std::move(mix)),
      seed_(seed),
      length_scale_(length_scale),
      arrivals_(mix_.arrivals, seed) {
  for (const auto& t : mix_.traffic) {
    weights_.push_back(
        {Zipf(t.tenants.count, t.tenants.skew), Zipf(t.prefix.groups, t.prefix.skew)});
    total_weight_ += t.weight;
  }
}

Result<std::optional<Request>> MixSource::next() {
  const auto draws = [&](Purpose purpose) { return Draws(seed_, purpose, index_); };
  Request request;
  request.at_s = arrivals_.next_s();
  request.index = index_;
  double at = draws(Purpose::traffic).unit() * total_weight_;
  while (request.traffic + 1 < mix_.traffic.size() && at >= mix_.traffic[request.traffic].weight) {
    at -= mix_.traffic[request.traffic++].weight;
  }
  const Traffic& traffic = mix_.traffic[request.traffic];
  const Weights& weights = weights_[request.traffic];
  request.embed = traffic.embed;
  auto of_tenant = draws(Purpose::tenant);
  request.tenant = traffic.tenants.first + weights.tenants.draw(of_tenant);
  auto of_prompt = draws(Purpose::prompt_length);
  request.prompt_tokens = scaled(draw(traffic.prompt, of_prompt), length_scale_);
  auto of_output = draws(Purpose::output_length);
  request.output_tokens = scaled(draw(traffic.output, of_output), length_scale_);
  auto of_prefix = draws(Purpose::prefix);
  if (of_prefix.unit() < traffic.prefix.share) {
    request.blocks = {mix_bits(request.traffic, weights.prefixes.draw(of_prefix))};
    request.block_tokens = scaled(traffic.prefix.tokens, length_scale_);
    request.prompt_tokens += request.block_tokens;
  }
  ++index_;
  return request;
}

std::uint32_t scaled(std::uint32_t tokens, double scale) {
  return static_cast<std::uint32_t>(std::clamp(std::floor(tokens * scale + 0.5), 1.0, 1e9));
}

bool fit(Request& request, std::uint32_t context_tokens) {
  const auto prompt = request.prompt_tokens;
  const auto output = request.output_tokens;
  if (request.embed) {
    request.prompt_tokens = std::min(prompt, context_tokens);
  } else if (std::uint64_t{prompt} + output > context_tokens) {
    request.output_tokens = std::min(output, std::max(1U, context_tokens / 2));
    request.prompt_tokens = std::min(prompt, std::max(2U, context_tokens) - request.output_tokens);
  }
  return request.prompt_tokens != prompt || request.output_tokens != output;
}

std::vector<std::int32_t> prompt_of(const Request& request, std::uint64_t seed,
                                    std::uint32_t vocabulary_tokens) {
  // Special tokens are at one end of a vocabulary or the other.
  const std::uint32_t first = vocabulary_tokens / 8;
  const std::uint32_t count = std::max(1U, vocabulary_tokens - 2 * first);
  std::vector<std::int32_t> tokens;
  tokens.reserve(request.prompt_tokens);
  const auto add = [&](Draws draws, std::uint64_t n) {
    for (; n > 0 && tokens.size() < request.prompt_tokens; --n) {
      tokens.push_back(static_cast<std::int32_t>(first + draws.below(count)));
    }
  };
  for (const auto block : request.blocks) {
    add(Draws(mix_bits(seed, 1), Purpose::token, block), request.block_tokens);
  }
  add(Draws(seed, Purpose::token, request.index), request.prompt_tokens);
  return tokens;
}

std::string text_of(const Request& request, std::uint64_t seed) {
  Draws draws(seed, Purpose::token, request.index);
  std::string text;
  // Embedding models put a token before the text and one behind it.
  const std::uint32_t count = request.prompt_tokens > 2 ? request.prompt_tokens - 2 : 1;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += words.at(draws.below(words.size()));
  }
  return text;
}

}  // namespace plimsoll::cli::scorecard
