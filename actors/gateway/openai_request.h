// Requests of the OpenAI API: JSON in, the cluster's request out. Knows nothing of HTTP.
//
// Follows https://platform.openai.com/docs/api-reference (chat, completions, embeddings) and takes
// these extensions, which other servers have too: top_k, min_p, ignore_eos; and deadline_ms and
// cache.
// A field that is not known is refused, because ignoring it would give an answer to another
// question than the one that was asked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "actors/frontend.h"
#include "actors/gateway/bounded_json.h"
#include "engine/base/result.h"

namespace plimsoll {

// One POST to /v1/chat/completions or /v1/completions.
struct GenerationCall {
  bool chat = false;
  std::vector<GenerateRequest> requests;  // one for each prompt; all ask for as many choices
  bool stream = false;
  bool include_usage = false;  // of a stream: a last chunk with the usage
  bool logprobs = false;

  // Answer `j` of prompt `i` is choice `i * choices() + j`.
  std::uint32_t choices() const { return requests.front().choices; }
};

struct EmbeddingCall {
  EmbedRequest request;
  bool base64 = false;  // little-endian float32 in base64 instead of an array of numbers
};

// Errors: invalid_argument and unsupported, with `param` where a field is at fault.
Result<GenerationCall> parse_chat_call(std::string_view body, const HoldBytes& hold = {});
Result<GenerationCall> parse_completion_call(std::string_view body, const HoldBytes& hold = {});
Result<EmbeddingCall> parse_embedding_call(std::string_view body, const HoldBytes& hold = {});

}  // namespace plimsoll
