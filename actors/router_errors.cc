#include "actors/router_errors.h"

#include <fmt/format.h>

#include <utility>

namespace plimsoll {

Error refusal_error(const std::string& tenant, const cluster::Decision& decision) {
  using cluster::Verdict;
  const auto retry = static_cast<std::uint32_t>(decision.retry_after.count());
  const auto exhausted = [&](std::string message) {
    return Error(ErrorCode::resource_exhausted, std::move(message))
        .with_reason(reason_of(decision.verdict))
        .retry_after(retry);
  };
  const auto rate = [&](const char* what) {
    return exhausted(fmt::format("tenant '{}' has used up its rate of {}{}", tenant, what,
                                 retry == 0 ? ": the request is larger than its burst" : ""));
  };
  switch (decision.verdict) {
    case Verdict::admitted: break;
    case Verdict::unknown_tenant:
      return Error(ErrorCode::permission_denied, "no tenant named '" + tenant + "'");
    case Verdict::suspended:
      return Error(ErrorCode::permission_denied, "tenant '" + tenant + "' is suspended")
          .with_reason(reason_of(decision.verdict));
    case Verdict::model:
      return Error(ErrorCode::permission_denied, "tenant '" + tenant + "' may not use this model")
          .with_reason(reason_of(decision.verdict))
          .with_param("model");
    case Verdict::prompt_length:
      return Error(ErrorCode::invalid_argument,
                   fmt::format("the prompt has {:.0f} tokens; tenant '{}' may send {:.0f}",
                               decision.asked, tenant, decision.limit))
          .with_reason(reason_of(decision.verdict));
    case Verdict::prompt_repeats:
      return Error(ErrorCode::invalid_argument,
                   fmt::format("the prompt's {:.0f} tokens repeat the same few over and over: "
                               "shorten it",
                               decision.asked))
          .with_reason(reason_of(decision.verdict));
    case Verdict::generation_cap:
      return Error(ErrorCode::invalid_argument,
                   fmt::format("up to {:.0f} tokens are asked for; tenant '{}' may have {:.0f}",
                               decision.asked, tenant, decision.limit))
          .with_reason(reason_of(decision.verdict))
          .with_param("max_tokens");
    case Verdict::token_budget:
      return Error(ErrorCode::invalid_argument,
                   fmt::format("prompt and answers may come to {:.0f} tokens; a request of tenant "
                               "'{}' may have {:.0f}",
                               decision.asked, tenant, decision.limit))
          .with_reason(reason_of(decision.verdict))
          .with_param("max_tokens");
    case Verdict::sequences:
      return exhausted(fmt::format(
          "tenant '{}' may have {:.0f} sequences waiting and running: it has {:.0f} and "
          "asks for {:.0f} more",
          tenant, decision.limit, decision.used, decision.asked));
    case Verdict::kv_bytes:
      return exhausted(
          fmt::format("tenant '{}' may hold {:.0f} bytes of KV memory: it holds {:.0f} and asks "
                      "for {:.0f} more",
                      tenant, decision.limit, decision.used, decision.asked));
    case Verdict::lease:
      return exhausted("this router has no part of the quota of tenant '" + tenant + "' just now");
    case Verdict::requests_rate: return rate("requests");
    case Verdict::prompt_rate: return rate("prompt tokens");
    case Verdict::generated_rate: return rate("generated tokens");
  }
  return Error(ErrorCode::internal, "an admitted request was refused");
}

Error end_error(cluster::EndCause cause, const std::string& node) {
  switch (cause) {
    case cluster::EndCause::cancelled: break;
    case cluster::EndCause::node_lost:
      return Error(ErrorCode::unavailable, "node '" + node + "' was lost").retry_after(1000);
    case cluster::EndCause::no_node:
      return Error(ErrorCode::unavailable, "no node that is ready can go on with the request")
          .retry_after(1000);
    case cluster::EndCause::overdue:
      return {ErrorCode::deadline_exceeded,
              "the request's deadline passed and its node does not answer"};
    case cluster::EndCause::stopped:
      return Error(ErrorCode::unavailable, "the server has stopped").retry_after(1000);
  }
  return {ErrorCode::cancelled, "the request was cancelled"};
}

}  // namespace plimsoll
