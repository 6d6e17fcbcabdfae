// Answers of the OpenAI API: what the cluster says, as JSON. Knows nothing of HTTP.
//
// The long parts are kept as JSON text rather than as trees: a token with 20 alternatives takes
// about 2 KB as text and several times that as a tree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/frontend.h"
#include "engine/base/result.h"

namespace plimsoll {

// What every chunk of an answer repeats.
struct AnswerHead {
  bool chat = false;
  bool logprobs = false;
  bool include_usage = false;
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  std::string model;
  std::string fingerprint;
  std::uint64_t created = 0;  // Unix time
};

// The log-probabilities of a run of tokens in the shape of either API.
class LogprobText {
 public:
  explicit LogprobText(bool chat) : chat_(chat) {}
  void add(const std::vector<TokenText>& tokens);
  std::string json() const;
  // Forgets the tokens and keeps the position in the text, for the next chunk.
  void clear();
  std::uint64_t bytes() const;

 private:
  bool chat_;
  std::uint64_t offset_ = 0;  // in the choice's text, in Unicode characters
  std::string tokens_, logprobs_, top_, offsets_;
};

// An answer in one piece.
class WholeAnswer {
 public:
  WholeAnswer(AnswerHead head, std::uint32_t choices);
  void add(std::uint32_t choice, const GenerationDelta& delta);
  void end(std::uint32_t choice, FinishReason reason);
  std::string json(const GenerationUsage& usage) const;
  std::uint64_t bytes() const;  // held now

 private:
  struct Choice {
    std::string text;
    LogprobText logprobs;
    FinishReason reason = FinishReason::stop;
  };
  AnswerHead head_;
  std::vector<Choice> choices_;
};

// An answer as server-sent events. Each call gives zero or more whole events.
class StreamedAnswer {
 public:
  StreamedAnswer(AnswerHead head, std::uint32_t choices);
  std::string add(std::uint32_t choice, const GenerationDelta& delta);
  std::string end(std::uint32_t choice, FinishReason reason);
  std::string finish(const GenerationUsage& usage) const;  // usage if asked for, and [DONE]
  static std::string failed(const Error& error);

 private:
  struct Choice {
    LogprobText logprobs;
    bool begun = false;
  };
  std::string begin(std::uint32_t choice);

  AnswerHead head_;
  std::vector<Choice> choices_;
};

// "chatcmpl-" and 24 random characters.
std::string make_answer_id(std::string_view prefix);

// An upper bound of what embeddings_json() gives, with the numbers that it is made of.
std::uint64_t predict_embeddings_bytes(const EmbedResponse& response);
std::string embeddings_json(const EmbedResponse& response, const std::string& model, bool base64);
std::string model_json(const ModelCard& card);
std::string models_json(const std::vector<ModelCard>& cards);

// x-ratelimit-{limit,remaining,reset}-{requests,tokens}, where there is a limit. Of the two rates
// of tokens, prompt and generated, it is the one of which less is left, as a part of its limit.
std::vector<std::pair<std::string, std::string>> rate_limit_headers(const RateLimits& limits);

// {"error": {"message", "type", "param", "code"}}
std::string error_json(const Error& error, int status);
// The HTTP status that stands for an error.
int http_status(const Error& error);

}  // namespace plimsoll
