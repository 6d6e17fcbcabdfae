// Bodies of the OpenAI API: whatever comes, an answer or a typed error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "actors/gateway/openai_request.h"

namespace {

void check(bool good) {
  if (!good) __builtin_trap();
}

template <class Call>
void check_error(const plimsoll::Result<Call>& call) {
  if (call) return;
  check(call.error().code == plimsoll::ErrorCode::invalid_argument ||
        call.error().code == plimsoll::ErrorCode::unsupported);
  check(!call.error().message.empty() && call.error().message.size() < 4096);
}

}  // namespace

// The first byte picks the endpoint.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 2) {
    const auto call = plimsoll::parse_embedding_call(body);
    check_error(call);
    check(!call || !call->request.inputs.empty());
    return 0;
  }
  const auto call =
      data[0] % 3 == 0 ? plimsoll::parse_chat_call(body) : plimsoll::parse_completion_call(body);
  check_error(call);
  if (!call) return 0;
  check(!call->requests.empty() && call->requests.size() * call->choices() <= 128);
  for (const auto& request : call->requests) {
    check(!request.model.empty() && request.choices == call->choices());
    check(request.sampling.temperature >= 0 && request.sampling.top_p > 0);
    check(request.stop.size() <= 16 && request.sampling.logit_bias.size() <= 1024);
  }
  return 0;
}
