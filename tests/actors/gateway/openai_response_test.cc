#include "actors/gateway/openai_response.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace plimsoll {
namespace {

using Json = nlohmann::json;

AnswerHead head(bool chat, bool logprobs = false, bool include_usage = false) {
  AnswerHead head;
  head.chat = chat;
  head.logprobs = logprobs;
  head.include_usage = include_usage;
  head.id = "id-1";
  head.model = "m\"1";
  head.fingerprint = "fp_1";
  head.created = 17;
  return head;
}

GenerationDelta delta(std::string text, std::vector<TokenText> tokens = {}) {
  GenerationDelta delta;
  delta.text = std::move(text);
  delta.tokens = std::move(tokens);
  delta.token_count = 1;
  return delta;
}

// The events of a stream, each parsed; "[DONE]" as a string.
std::vector<Json> events(const std::string& text) {
  std::vector<Json> out;
  std::size_t at = 0;
  while (at < text.size()) {
    EXPECT_EQ(text.substr(at, 6), "data: ");
    const auto end = text.find("\n\n", at);
    EXPECT_NE(end, std::string::npos);
    if (end == std::string::npos) break;
    const std::string data = text.substr(at + 6, end - at - 6);
    out.push_back(data == "[DONE]" ? Json(data) : Json::parse(data));
    at = end + 2;
  }
  return out;
}

TEST(OpenAiResponse, WholeChat) {
  WholeAnswer answer(head(true), 2);
  answer.add(0, delta("Hel"));
  answer.add(1, delta("x"));
  answer.add(0, delta("lo"));
  answer.end(0, FinishReason::stop);
  answer.end(1, FinishReason::length);
  const Json json = Json::parse(answer.json({5, 2, 3}));
  EXPECT_EQ(json,
            Json::parse(R"({"id":"id-1","object":"chat.completion","created":17,"model":"m\"1",
    "system_fingerprint":"fp_1","choices":[
      {"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},
       "logprobs":null,"finish_reason":"stop"},
      {"index":1,"message":{"role":"assistant","content":"x","refusal":null},
       "logprobs":null,"finish_reason":"length"}],
    "usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,
             "prompt_tokens_details":{"cached_tokens":2}}})"));
}

TEST(OpenAiResponse, ChatLogprobsCarryBytes) {
  WholeAnswer answer(head(true, true), 1);
  answer.add(0, delta("", {{"\xC3", -0.5F, {{"\xC3", -0.5F}, {"a", -1.5F}}}}));
  answer.add(0, delta("\xC3\xA9", {{"\xA9", -INFINITY, {}}}));
  const Json content = Json::parse(answer.json({}))["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2U);
  EXPECT_EQ(content[0]["token"], "\xEF\xBF\xBD");
  EXPECT_EQ(content[0]["bytes"], Json::array({0xC3}));
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "a");
  EXPECT_EQ(content[1]["logprob"], -9999.0);
  EXPECT_EQ(content[1]["top_logprobs"], Json::array());
}

TEST(OpenAiResponse, LegacyLogprobs) {
  WholeAnswer answer(head(false, true), 1);
  answer.add(0, delta("\xC3\xA9", {{"\xC3\xA9", {}, {}}}));  // an echoed prompt
  answer.add(0, delta("b", {{"b", -0.25F, {{"c", -0.125F}}}, {"\xE2\x82", -1.0F, {}}}));
  answer.add(0, delta("\xE2\x82\xAC!", {{"\xAC", -2.0F, {}}, {"!", -3.0F, {}}}));
  answer.end(0, FinishReason::length);
  const Json choice = Json::parse(answer.json({}))["choices"][0];
  EXPECT_EQ(choice["text"],
            "\xC3\xA9"
            "b\xE2\x82\xAC!");
  EXPECT_EQ(choice["logprobs"], Json::parse(R"({
      "tokens":["é","b","bytes:\\xe2\\x82","bytes:\\xac","!"],
      "token_logprobs":[null,-0.25,-1.0,-2.0,-3.0],
      "top_logprobs":[null,{"c":-0.125,"b":-0.25},{"bytes:\\xe2\\x82":-1.0},
                      {"bytes:\\xac":-2.0},{"!":-3.0}],
      "text_offset":[0,1,2,3,3]})"));
}

TEST(OpenAiResponse, StreamedChat) {
  StreamedAnswer answer(head(true, false, true), 1);
  std::string text = answer.add(0, delta("Hi"));
  text += answer.add(0, delta(""));  // held back: nothing to say yet
  text += answer.end(0, FinishReason::stop);
  text += answer.finish({1, 0, 2});
  const auto all = events(text);
  ASSERT_EQ(all.size(), 5U);
  EXPECT_EQ(all[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(all[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(all[0]["choices"][0]["delta"]["content"], "");
  EXPECT_EQ(all[1]["choices"][0]["delta"], Json({{"content", "Hi"}}));
  EXPECT_TRUE(all[1]["choices"][0]["finish_reason"].is_null());
  EXPECT_TRUE(all[1].contains("usage") && all[1]["usage"].is_null());
  EXPECT_EQ(all[2]["choices"][0]["delta"], Json::object());
  EXPECT_EQ(all[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(all[3]["choices"], Json::array());
  EXPECT_EQ(all[3]["usage"]["total_tokens"], 3);
  EXPECT_EQ(all[4], "[DONE]");
}

TEST(OpenAiResponse, StreamedAnswerWithoutTokensStillHasARole) {
  StreamedAnswer answer(head(true), 1);
  const auto all = events(answer.end(0, FinishReason::stop));
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(all[0].contains("usage"));
}

TEST(OpenAiResponse, StreamedCompletionsKeepTheirOffsets) {
  StreamedAnswer answer(head(false, true), 2);
  answer.add(1, delta("ab", {{"ab", -1.0F, {}}}));
  const auto all = events(answer.add(1, delta("c", {{"c", -1.0F, {}}})));
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0]["object"], "text_completion");
  EXPECT_EQ(all[0]["choices"][0]["index"], 1);
  EXPECT_EQ(all[0]["choices"][0]["text"], "c");
  EXPECT_EQ(all[0]["choices"][0]["logprobs"]["tokens"], Json::array({"c"}));
  EXPECT_EQ(all[0]["choices"][0]["logprobs"]["text_offset"], Json::array({2}));
}

TEST(OpenAiResponse, ACancelledChoiceHasNoFinish) {
  StreamedAnswer answer(head(true), 1);
  EXPECT_EQ(answer.end(0, FinishReason::error), "");
}

TEST(OpenAiResponse, Embeddings) {
  EmbedResponse response;
  response.embeddings = {{1.0F, -0.5F}, {0.1F}};
  response.prompt_tokens = 4;
  response.cached_tokens = 3;
  const Json plain = Json::parse(embeddings_json(response, "m", false));
  EXPECT_EQ(plain["object"], "list");
  EXPECT_EQ(plain["data"][0]["embedding"], Json::array({1.0, -0.5}));
  EXPECT_EQ(plain["data"][1]["index"], 1);
  EXPECT_EQ(plain["data"][1]["embedding"][0].get<float>(), 0.1F);  // the shortest text is exact
  EXPECT_EQ(plain["usage"], Json::parse(R"({"prompt_tokens":4,"total_tokens":4,
                                            "prompt_tokens_details":{"cached_tokens":3}})"));
  const Json packed = Json::parse(embeddings_json(response, "m", true));
  // base64.b64encode(struct.pack("<2f", 1.0, -0.5)), and of 0.1
  EXPECT_EQ(packed["data"][0]["embedding"], "AACAPwAAAL8=");
  EXPECT_EQ(packed["data"][1]["embedding"], "zczMPQ==");
}

TEST(OpenAiResponse, Errors) {
  const Error error = Error(ErrorCode::invalid_argument, "bad \xff").with_param("n");
  const Json json = Json::parse(error_json(error, 400));
  EXPECT_EQ(json["error"]["type"], "invalid_request_error");
  EXPECT_EQ(json["error"]["param"], "n");
  EXPECT_EQ(json["error"]["code"], "invalid_argument");
  EXPECT_EQ(http_status(error), 400);
  EXPECT_EQ(http_status(Error(ErrorCode::unauthenticated, "")), 401);
  EXPECT_EQ(http_status(Error(ErrorCode::permission_denied, "")), 403);
  EXPECT_EQ(http_status(Error(ErrorCode::not_found, "")), 404);
  EXPECT_EQ(http_status(Error(ErrorCode::unavailable, "")), 503);
  EXPECT_EQ(http_status(Error(ErrorCode::deadline_exceeded, "")), 504);
  EXPECT_EQ(http_status(Error(ErrorCode::internal, "")), 500);
  EXPECT_EQ(http_status(Error(ErrorCode::resource_exhausted, "")), 429);
  EXPECT_EQ(http_status(Error(ErrorCode::resource_exhausted, "").with_reason("overloaded")), 503);
  const auto failed = events(StreamedAnswer::failed(Error(ErrorCode::internal, "x")));
  EXPECT_EQ(failed.at(0)["error"]["type"], "server_error");
}

TEST(OpenAiResponse, IdsDiffer) {
  EXPECT_EQ(make_answer_id("cmpl-").size(), 29U);
  EXPECT_NE(make_answer_id("cmpl-"), make_answer_id("cmpl-"));
}

TEST(OpenAiResponse, RateLimitHeaders) {
  using Headers = std::vector<std::pair<std::string, std::string>>;
  EXPECT_TRUE(rate_limit_headers({}).empty()) << "no limit, no header";
  EXPECT_EQ(rate_limit_headers({{10, 0, 0.0201}, {}, {}}),
            (Headers{{"x-ratelimit-limit-requests", "10"},
                     {"x-ratelimit-remaining-requests", "0"},
                     {"x-ratelimit-reset-requests", "21ms"}}));
  const auto tokens = [](cluster::RateState prompt, cluster::RateState generated) {
    const auto headers = rate_limit_headers({{}, prompt, generated});
    return headers.size() == 3
               ? headers[0].second + " " + headers[1].second + " " + headers[2].second
               : "not three";
  };
  EXPECT_EQ(tokens({100, 50, 1}, {}), "100 50 1s");
  EXPECT_EQ(tokens({}, {200, 0.5, 3599.5}), "200 0 1h0m0s");
  EXPECT_EQ(tokens({100, 50, 1}, {1000, 499, 61}), "1000 499 1m1s") << "the scarcer one";
  EXPECT_EQ(tokens({100, 50, 12.345}, {1000, 501, 61}), "100 50 12.345s");
}

}  // namespace
}  // namespace plimsoll
