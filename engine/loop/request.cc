#include "engine/loop/request.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace plimsoll {
namespace {

constexpr std::size_t max_stop_tokens = 1024;

Error bad(const char* param, std::string message) {
  return Error(ErrorCode::invalid_argument, std::move(message)).with_param(param);
}

Result<void> check_tokens(const std::vector<TokenId>& tokens, const char* param,
                          std::uint32_t vocab) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<std::uint32_t>(tokens[i]) >= vocab) {
      return fail(bad(param, "token " + std::to_string(tokens[i]) + " at index " +
                                 std::to_string(i) + " of " + param +
                                 " is outside the vocabulary of " + std::to_string(vocab)));
    }
  }
  return {};
}

}  // namespace

std::uint32_t peak_tokens(const SequenceRequest& request) {
  const auto prompt = static_cast<std::uint32_t>(request.prompt.size());
  return std::max(prompt, prompt + request.max_new_tokens - 1);
}

std::uint64_t peak_bytes(const SequenceRequest& request, const KvDemand& demand) {
  constexpr std::uint64_t sequence_bytes = 1024;  // the object itself, its maps' entries, its event
  const std::uint64_t tokens = request.prompt.size() + request.max_new_tokens;
  std::uint64_t bytes = sequence_bytes + tokens * sizeof(TokenId);
  bytes += (tokens / demand.block_tokens + 1) * demand.layer_groups() * sizeof(BlockId);
  bytes += request.sampling.logit_bias.size() * sizeof(request.sampling.logit_bias[0]);
  bytes += request.stop_tokens.size() * sizeof(TokenId);
  if (request.prompt_logprobs) {
    const auto top = static_cast<std::uint64_t>(std::max(0, request.sampling.top_logprobs));
    bytes += request.prompt.size() * (sizeof(SampledToken) + top * sizeof(TokenLogprob));
  }
  return bytes;
}

Result<void> check_request(const SequenceRequest& request, const ModelInfo& model,
                           const EngineConfig& config, const KvDemand& demand,
                           std::uint32_t capacity_blocks) {
  if (request.prompt.empty()) return fail(bad("prompt", "the prompt has no tokens"));
  if (request.max_new_tokens == 0 && !request.prompt_logprobs) {
    return fail(bad("max_tokens",
                    "max_tokens is 0 and no prompt log-probabilities are asked for: "
                    "there is nothing to do"));
  }
  std::uint32_t context = config.limits.context_tokens;
  if (model.context_tokens > 0) context = std::min(context, model.context_tokens);
  const std::uint64_t tokens = std::uint64_t{request.prompt.size()} + request.max_new_tokens;
  if (tokens > context) {
    return fail(bad("prompt", "the prompt's " + std::to_string(request.prompt.size()) +
                                  " tokens and up to " + std::to_string(request.max_new_tokens) +
                                  " new ones exceed the context of " + std::to_string(context) +
                                  ": shorten the prompt or lower max_tokens")
                    .with_reason("context_length_exceeded"));
  }
  if (!std::isfinite(request.weight) || request.weight <= 0) {
    return fail(bad("weight", "a tenant's weight must be over 0"));
  }
  if (request.resumed.size() > request.max_new_tokens) {
    return fail(bad("resumed", std::to_string(request.resumed.size()) +
                                   " tokens to resume from are more than max_tokens, " +
                                   std::to_string(request.max_new_tokens)));
  }
  if (auto ok = check_tokens(request.prompt, "prompt", model.vocab); !ok) return ok;
  if (auto ok = check_tokens(request.resumed, "resumed", model.vocab); !ok) return ok;
  if (auto ok = check_tokens(request.stop_tokens, "stop_tokens", model.vocab); !ok) return ok;
  if (request.stop_tokens.size() > max_stop_tokens) {
    return fail(
        bad("stop_tokens", "more than " + std::to_string(max_stop_tokens) + " stop tokens"));
  }
  if (auto ok = validate(request.sampling); !ok) return ok;
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (static_cast<std::uint32_t>(token) >= model.vocab) {
      return fail(bad("logit_bias", "token " + std::to_string(token) +
                                        " of logit_bias is outside the vocabulary of " +
                                        std::to_string(model.vocab)));
    }
  }
  const std::uint32_t needed = demand.blocks(demand.rows(peak_tokens(request)));
  if (needed > capacity_blocks) {
    return fail(Error(ErrorCode::resource_exhausted,
                      "the prompt's " + std::to_string(request.prompt.size()) +
                          " tokens and up to " + std::to_string(request.max_new_tokens) +
                          " new ones need " + std::to_string(needed) + " KV blocks of " +
                          std::to_string(config.block_tokens) + " tokens; the pool has " +
                          std::to_string(capacity_blocks) +
                          " in all: lower max_tokens, or raise the KV budget")
                    .with_reason("kv_budget_exceeded"));
  }
  return {};
}

}  // namespace plimsoll
