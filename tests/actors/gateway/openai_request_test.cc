#include "actors/gateway/openai_request.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

std::string chat(const std::string& more) {
  return R"({"model":"m","messages":[{"role":"user","content":"hi"}])" + more + "}";
}
std::string completion(const std::string& more) {
  return R"({"model":"m","prompt":"hi")" + more + "}";
}

GenerateRequest good_chat(const std::string& more) {
  auto call = parse_chat_call(chat(more));
  EXPECT_TRUE(call) << call.error().message;
  return call ? call->requests.at(0) : GenerateRequest{};
}
Error bad_chat(const std::string& more) {
  auto call = parse_chat_call(chat(more));
  EXPECT_FALSE(call) << more;
  return call ? Error() : call.error();
}
Error bad_completion(const std::string& more) {
  auto call = parse_completion_call(completion(more));
  EXPECT_FALSE(call) << more;
  return call ? Error() : call.error();
}

TEST(OpenAiRequest, ChatDefaults) {
  auto call = parse_chat_call(chat(""));
  ASSERT_TRUE(call);
  EXPECT_TRUE(call->chat);
  EXPECT_FALSE(call->stream);
  const auto& request = call->requests.at(0);
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.choices, 1U);
  EXPECT_FALSE(request.max_tokens);
  EXPECT_FALSE(request.seed);
  EXPECT_EQ(request.sampling.temperature, 1.0F);
  EXPECT_EQ(request.sampling.top_p, 1.0F);
  EXPECT_EQ(request.sampling.top_logprobs, -1);
  const auto& messages = std::get<std::vector<ChatMessage>>(request.input);
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_EQ(messages[0].role, "user");
  EXPECT_EQ(messages[0].content, "hi");
}

TEST(OpenAiRequest, EveryParameterArrives) {
  auto call = parse_chat_call(chat(
      R"(,"temperature":0.5,"top_p":0.25,"top_k":7,"min_p":0.125,"seed":-2,"stop":["a","b"],)"
      R"("max_completion_tokens":9,"logprobs":true,"top_logprobs":3,"n":2,"presence_penalty":-1,)"
      R"("frequency_penalty":1.5,"logit_bias":{"5":-100,"6":2.5},"stream":true,)"
      R"("stream_options":{"include_usage":true},"ignore_eos":true,"deadline_ms":1000)"));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_TRUE(call->stream);
  EXPECT_TRUE(call->include_usage);
  EXPECT_TRUE(call->logprobs);
  const auto& request = call->requests.at(0);
  EXPECT_EQ(request.seed, static_cast<std::uint64_t>(-2));
  EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.max_tokens, 9U);
  EXPECT_EQ(request.choices, 2U);
  EXPECT_EQ(request.deadline_ms, 1000U);
  EXPECT_TRUE(request.ignore_eos);
  const auto& sampling = request.sampling;
  EXPECT_EQ(sampling.temperature, 0.5F);
  EXPECT_EQ(sampling.top_p, 0.25F);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_EQ(sampling.min_p, 0.125F);
  EXPECT_EQ(sampling.presence_penalty, -1.0F);
  EXPECT_EQ(sampling.frequency_penalty, 1.5F);
  EXPECT_EQ(sampling.top_logprobs, 3);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<TokenId, float>>{{5, -100.0F}, {6, 2.5F}}));
}

TEST(OpenAiRequest, NullIsAbsent) {
  const auto request = good_chat(
      R"(,"temperature":null,"stop":null,"seed":null,"n":null,"max_tokens":null,"logprobs":null,)"
      R"("tools":null,"response_format":null,"logit_bias":null,"stream":null)");
  EXPECT_EQ(request.choices, 1U);
  EXPECT_EQ(request.sampling.temperature, 1.0F);
}

TEST(OpenAiRequest, HarmlessFieldsAreTaken) {
  good_chat(R"(,"user":"u","store":false,"metadata":{"a":"b"},"service_tier":"auto",)"
            R"("parallel_tool_calls":true,"tools":[],"tool_choice":"none",)"
            R"("response_format":{"type":"text"},"modalities":["text"])");
}

TEST(OpenAiRequest, WhatShallNotBeStoredSaysSo) {
  for (const auto& [field, no_store] : {std::pair(R"(,"cache":"no-store")", true),
                                        {R"(,"cache":"default")", false},
                                        {R"(,"cache":null)", false},
                                        {"", false}}) {
    EXPECT_EQ(good_chat(field).no_store, no_store) << field;
    const std::string rest = std::string(R"("x")") + field + "}";
    const auto completion = parse_completion_call(R"({"model":"m","prompt":)" + rest);
    ASSERT_TRUE(completion) << completion.error().message;
    EXPECT_EQ(completion->requests.at(0).no_store, no_store) << field;
    const auto embedding = parse_embedding_call(R"({"model":"m","input":)" + rest);
    ASSERT_TRUE(embedding) << embedding.error().message;
    EXPECT_EQ(embedding->request.no_store, no_store) << field;
  }
  for (const std::string value : {R"("")", R"("No-Store")", "true", "0", "{}"}) {
    const std::string rest = R"("x","cache":)" + value + "}";
    const auto completion = parse_completion_call(R"({"model":"m","prompt":)" + rest);
    const auto embedding = parse_embedding_call(R"({"model":"m","input":)" + rest);
    ASSERT_FALSE(completion) << value;
    ASSERT_FALSE(embedding) << value;
    for (const auto& error : {completion.error(), embedding.error()}) {
      EXPECT_EQ(error.code, ErrorCode::invalid_argument);
      EXPECT_EQ(error.param, "cache");
      EXPECT_EQ(error.message, "'cache' must be default or no-store");
    }
  }
}

TEST(OpenAiRequest, WhatIsOutOfRangeIsNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("temperature":2.1)", "temperature"},
      {R"("temperature":-0.1)", "temperature"},
      {R"("temperature":"NaN")", "temperature"},
      {R"("temperature":true)", "temperature"},
      {R"("top_p":0)", "top_p"},
      {R"("top_p":1.01)", "top_p"},
      {R"("top_k":-2)", "top_k"},
      {R"("top_k":1.5)", "top_k"},
      {R"("min_p":-1)", "min_p"},
      {R"("n":0)", "n"},
      {R"("n":129)", "n"},
      {R"("n":1e30)", "n"},
      {R"("n":18446744073709551615)", "n"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_tokens":-1)", "max_tokens"},
      {R"("max_tokens":4294967296)", "max_tokens"},
      {R"("presence_penalty":3)", "presence_penalty"},
      {R"("frequency_penalty":-3)", "frequency_penalty"},
      {R"("seed":1.5)", "seed"},
      {R"("seed":9223372036854775808)", "seed"},
      {R"("stop":5)", "stop"},
      {R"("stop":[""])", "stop"},
      {R"("stop":["a",1])", "stop"},
      {R"("logprobs":2)", "logprobs"},
      {R"("top_logprobs":2)", "top_logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"("logit_bias":{"x":1})", "logit_bias"},
      {R"("logit_bias":{"-1":1})", "logit_bias"},
      {R"("logit_bias":{"1":101})", "logit_bias"},
      {R"("logit_bias":{"1":"2"})", "logit_bias"},
      {R"("logit_bias":[1])", "logit_bias"},
      {R"("stream":"yes")", "stream"},
      {R"("stream_options":{})", "stream_options"},
      {R"("stream":true,"stream_options":{"x":1})", "stream_options"},
      {R"("max_tokens":5,"max_completion_tokens":6)", "max_tokens"},
      {R"("tool_choice":5)", "tool_choice"},
      {R"("temperatur":1)", "temperatur"},
  };
  for (const auto& [json, param] : cases) {
    EXPECT_EQ(bad_chat("," + json).param, param) << json;
  }
}

TEST(OpenAiRequest, UnsupportedIsNotIgnored) {
  for (const auto* json :
       {R"("tools":[{"type":"function"}])", R"("tool_choice":"required")",
        R"("functions":[{"name":"f"}])", R"("response_format":{"type":"json_object"})",
        R"("modalities":["text","audio"])", R"("audio":{"voice":"x"})",
        R"("reasoning_effort":"low")"}) {
    EXPECT_EQ(bad_chat(std::string(",") + json).code, ErrorCode::unsupported) << json;
  }
  EXPECT_EQ(bad_completion(R"(,"suffix":"x")").param, "suffix");
  EXPECT_EQ(bad_completion(R"(,"n":1,"best_of":2)").param, "best_of");
  EXPECT_EQ(parse_embedding_call(R"({"model":"m","input":"x","dimensions":64})").error().param,
            "dimensions");
}

TEST(OpenAiRequest, TenThousandStopStrings) {
  std::string list = R"(,"stop":["x")";
  for (int i = 1; i < 10'000; ++i) list += R"(,"x")";
  EXPECT_EQ(bad_chat(list + "]").param, "stop");
}

TEST(OpenAiRequest, MessageContent) {
  auto call = parse_chat_call(R"({"model":"m","messages":[
      {"role":"developer","content":"be"},
      {"role":"assistant","content":null,"refusal":null},
      {"role":"user","name":"joe","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"tool","tool_call_id":"x","content":"42"}]})");
  ASSERT_TRUE(call) << call.error().message;
  const auto& messages = std::get<std::vector<ChatMessage>>(call->requests[0].input);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[1].content, "");
  EXPECT_EQ(messages[2].content, "a\nb");
  EXPECT_EQ(messages[3].role, "tool");
}

TEST(OpenAiRequest, BadMessagesAreLocated) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"([])", "messages"},
      {R"("hi")", "messages"},
      {R"([5])", "messages[0]"},
      {R"([{"content":"x"}])", "messages[0].role"},
      {R"([{"role":"king","content":"x"}])", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":5}])", "messages[0].content"},
      {R"([{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url"}]}])",
       "messages[1].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"user","content":["a"]}])", "messages[0].content[0]"},
      {R"([{"role":"user","content":"a","colour":1}])", "messages[0].colour"},
      {R"([{"role":"assistant","content":"a","tool_calls":[{}]}])", "messages[0].tool_calls"},
  };
  for (const auto& [json, param] : cases) {
    auto call = parse_chat_call(R"({"model":"m","messages":)" + json + "}");
    ASSERT_FALSE(call) << json;
    EXPECT_EQ(call.error().param, param) << call.error().message;
  }
}

TEST(OpenAiRequest, CompletionPrompts) {
  const auto requests = [](const std::string& prompt) {
    auto call = parse_completion_call(R"({"model":"m","n":2,"prompt":)" + prompt + "}");
    EXPECT_TRUE(call) << call.error().message;
    return call ? call->requests : std::vector<GenerateRequest>{};
  };
  EXPECT_EQ(requests(R"("")").size(), 1U);
  const auto texts = requests(R"(["a","b","c"])");
  ASSERT_EQ(texts.size(), 3U);
  EXPECT_EQ(std::get<std::string>(texts[2].input), "c");
  EXPECT_EQ(texts[2].choices, 2U);
  const auto tokens = requests("[1,2,3]");
  ASSERT_EQ(tokens.size(), 1U);
  EXPECT_EQ(std::get<std::vector<TokenId>>(tokens[0].input), (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(requests("[[1],[2,3]]").size(), 2U);
}

TEST(OpenAiRequest, BadPrompts) {
  for (const auto* prompt : {"5", "[]", "[[]]", "[-1]", "[1.5]", "[2147483648]", R"(["a",1])",
                             R"([1,"a"])", R"([[1],"a"])", R"([["a"]])", "{}", "null", "true"}) {
    auto call = parse_completion_call(R"({"model":"m","prompt":)" + std::string(prompt) + "}");
    ASSERT_FALSE(call) << prompt;
    EXPECT_EQ(call.error().param, "prompt") << prompt;
  }
}

TEST(OpenAiRequest, PromptsTimesChoicesIsBounded) {
  std::string list = R"(["a")";
  for (int i = 1; i < 65; ++i) list += R"(,"a")";
  auto call = parse_completion_call(R"({"model":"m","n":2,"prompt":)" + list + "]}");
  ASSERT_FALSE(call);
  EXPECT_EQ(call.error().param, "prompt");
}

TEST(OpenAiRequest, CompletionDefaultsAreOpenAis) {
  auto call = parse_completion_call(completion(R"(,"logprobs":0)"));
  ASSERT_TRUE(call);
  EXPECT_EQ(call->requests[0].max_tokens, 16U);
  EXPECT_EQ(call->requests[0].sampling.top_logprobs, 0);
  EXPECT_TRUE(call->logprobs);
  EXPECT_EQ(bad_completion(R"(,"max_tokens":0)").param, "max_tokens");
  EXPECT_TRUE(parse_completion_call(completion(R"(,"max_tokens":0,"echo":true,"logprobs":1)")));
  EXPECT_EQ(bad_completion(R"(,"logprobs":true)").param, "logprobs");
  EXPECT_EQ(bad_completion(R"(,"messages":[])").param, "messages");
}

TEST(OpenAiRequest, Embeddings) {
  auto call = parse_embedding_call(R"({"model":"m","input":["a","b"],"encoding_format":"base64"})");
  ASSERT_TRUE(call);
  EXPECT_TRUE(call->base64);
  EXPECT_EQ(call->request.inputs.size(), 2U);
  call = parse_embedding_call(R"({"model":"m","input":[[1,2],[3]]})");
  ASSERT_TRUE(call);
  EXPECT_FALSE(call->base64);
  EXPECT_EQ(std::get<std::vector<TokenId>>(call->request.inputs[0]).size(), 2U);
  EXPECT_EQ(
      parse_embedding_call(R"({"model":"m","input":"a","encoding_format":"hex"})").error().param,
      "encoding_format");
  EXPECT_EQ(parse_embedding_call(R"({"model":"m"})").error().param, "input");
}

TEST(OpenAiRequest, WhatIsNoJsonIsRefused) {
  for (const std::string body :
       {"", "{", "nonsense", "[]", "5", "null", "{\"model\":\"m\xff\"}", R"({"model":"\ud800"})",
        R"({"model":"m","temperature":NaN})", R"({"model":"m"} x)", R"({"model":)"}) {
    auto call = parse_chat_call(body);
    ASSERT_FALSE(call) << body;
    EXPECT_EQ(call.error().code, ErrorCode::invalid_argument);
    EXPECT_LT(call.error().message.size(), 200U);
  }
  EXPECT_EQ(bad_chat(R"(,"temperature":1e999)").code, ErrorCode::invalid_argument);
}

TEST(OpenAiRequest, DepthAndSizeAreBounded) {
  const std::string deep(100'000, '[');
  EXPECT_FALSE(parse_chat_call(deep));
  std::string wide = "[0";
  for (int i = 0; i < 1 << 20; ++i) wide += ",0";
  EXPECT_FALSE(parse_chat_call(wide + "]"));
}

TEST(OpenAiRequest, DuplicateKeysAreNoHarm) {
  auto call = parse_chat_call(chat(R"(,"n":2,"n":3)"));
  ASSERT_TRUE(call);
  EXPECT_EQ(call->requests[0].choices, 3U);
}

TEST(OpenAiRequest, AModelIsNeeded) {
  for (const auto* model : {R"("")", "null", "5"}) {
    auto call = parse_completion_call(R"({"prompt":"x","model":)" + std::string(model) + "}");
    ASSERT_FALSE(call) << model;
    EXPECT_EQ(call.error().param, "model");
  }
}

}  // namespace
}  // namespace plimsoll
