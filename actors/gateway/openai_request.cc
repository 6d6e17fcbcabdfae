#include "actors/gateway/openai_request.h"

#include <algorithm>
#include <charconv>

#include "actors/gateway/json_fields.h"

namespace plimsoll {

namespace {

using Json = nlohmann::json;

constexpr std::int64_t max_choices = 128;  // of all prompts together; OpenAI's limit for n
constexpr std::size_t max_stops = 16;      // OpenAI's is 4
constexpr std::size_t max_stop_bytes = 1024;
constexpr std::size_t max_biases = 1024;
constexpr std::size_t max_inputs = 2048;  // OpenAI's limit for embeddings
constexpr std::size_t max_model_bytes = 256;
constexpr std::int64_t max_top_logprobs = 20;
constexpr std::int64_t max_int32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t min_int64 = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t max_int64 = std::numeric_limits<std::int64_t>::max();

Result<Json> parse_object(std::string_view body, const HoldBytes& hold) {
  auto object = parse_bounded_json(body, hold);
  if (object && !object->is_object()) {
    return fail(ErrorCode::invalid_argument, "the body must be a JSON object");
  }
  return object;
}

std::string read_model(JsonFields& fields) {
  fields.require("model");
  std::string model = fields.text("model");
  if (model.empty() || model.size() > max_model_bytes) {
    fields.wrong("model", "must be a string of 1 to " + std::to_string(max_model_bytes) + " bytes");
  }
  return model;
}

// Whether "cache" is "no-store".
bool read_no_store(JsonFields& fields) {
  const Json* value = fields.find("cache");
  if (value == nullptr || *value == "default") return false;
  if (*value != "no-store") fields.wrong("cache", "must be default or no-store");
  return true;
}

bool is_tokens(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& item) {
           return JsonFields::in_range(item, 0, max_int32);
         });
}

std::vector<TokenId> read_tokens(const Json& value) { return value.get<std::vector<TokenId>>(); }

// A string, a list of strings, a list of tokens, or a list of lists of tokens.
using TextOrTokens = std::variant<std::string, std::vector<TokenId>>;
std::vector<TextOrTokens> read_inputs(JsonFields& fields, std::string_view name,
                                      std::size_t max_count) {
  std::vector<TextOrTokens> out;
  fields.require(name);
  Json* value = fields.find(name);
  if (value == nullptr) return out;
  if (value->is_string()) {
    out.emplace_back(std::move(value->get_ref<std::string&>()));
    return out;
  }
  if (!value->is_array() || value->empty()) {
    fields.wrong(name, "must be a string, or a list of strings, tokens or lists of tokens");
    return out;
  }
  if (value->front().is_number()) {
    if (!is_tokens(*value))
      fields.wrong(name, "must hold tokens: integers from 0 to 2^31 - 1");
    else
      out.emplace_back(read_tokens(*value));
    return out;
  }
  if (value->size() > max_count) {
    fields.wrong(name, "may hold " + std::to_string(max_count) + " items at most");
    return out;
  }
  for (Json& item : *value) {
    if (item.is_string() && value->front().is_string()) {
      out.emplace_back(std::move(item.get_ref<std::string&>()));
    } else if (is_tokens(item) && !item.empty() && value->front().is_array()) {
      out.emplace_back(read_tokens(item));
    } else {
      fields.wrong(name, "must hold strings only, or non-empty lists of tokens only");
      return out;
    }
  }
  return out;
}

void read_stop(JsonFields& fields, GenerateRequest& request) {
  Json* value = fields.find("stop");
  if (value == nullptr) return;
  if (value->is_string()) *value = Json::array({std::move(*value)});
  const auto good = [](const Json& item) {
    return item.is_string() && !item.get_ref<const std::string&>().empty() &&
           item.get_ref<const std::string&>().size() <= max_stop_bytes;
  };
  if (!value->is_array() || value->size() > max_stops ||
      !std::all_of(value->begin(), value->end(), good)) {
    fields.wrong("stop", "must be a string or a list of " + std::to_string(max_stops) +
                             " at most, of 1 to " + std::to_string(max_stop_bytes) + " bytes each");
    return;
  }
  request.stop = value->get<std::vector<std::string>>();
}

void read_logit_bias(JsonFields& fields, SamplingParams& sampling) {
  Json* value = fields.find("logit_bias");
  if (value == nullptr) return;
  bool good = value->is_object() && value->size() <= max_biases;
  for (auto item = value->begin(); good && item != value->end(); ++item) {
    const std::string& key = item.key();
    TokenId token = no_token;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    const double bias = item->is_number() ? item->get<double>() : std::nan("");
    good = error == std::errc() && end == key.data() + key.size() && token >= 0 && bias >= -100 &&
           bias <= 100;
    sampling.logit_bias.emplace_back(token, static_cast<float>(bias));
  }
  if (!good) {
    fields.wrong("logit_bias", "must map token ids to numbers from -100 to 100, " +
                                   std::to_string(max_biases) + " at most");
  }
}

void read_stream_options(JsonFields& fields, GenerationCall& call) {
  call.stream = fields.boolean("stream");
  Json* value = fields.find("stream_options");
  if (value == nullptr) return;
  if (!call.stream || !value->is_object()) {
    fields.wrong("stream_options", "must be an object, and 'stream' true");
    return;
  }
  JsonFields options(*value, "stream_options.");
  call.include_usage = options.boolean("include_usage");
  options.ignore({"include_obfuscation"});
  if (auto done = options.finish(); !done) fields.wrong("stream_options", done.error().message);
}

// What both kinds of call have.
void read_common(JsonFields& fields, GenerationCall& call, GenerateRequest& request) {
  request.model = read_model(fields);
  auto& sampling = request.sampling;
  fields.number("temperature", 0, 2, sampling.temperature);
  constexpr double least = 1e-6;  // 0 would keep no token at all
  fields.number("top_p", least, 1, sampling.top_p);
  fields.number("min_p", 0, 1, sampling.min_p);
  fields.number("presence_penalty", -2, 2, sampling.presence_penalty);
  fields.number("frequency_penalty", -2, 2, sampling.frequency_penalty);
  // -1 is another way to say "all".
  sampling.top_k = std::max(0, fields.integer<std::int32_t>("top_k", -1, max_int32).value_or(0));
  if (const auto seed = fields.integer<std::int64_t>("seed", min_int64, max_int64)) {
    request.seed = static_cast<std::uint64_t>(*seed);
  }
  request.choices = fields.integer<std::uint32_t>("n", 1, max_choices).value_or(1);
  request.ignore_eos = fields.boolean("ignore_eos");
  request.deadline_ms = fields.integer<std::uint32_t>("deadline_ms", 0, max_int32).value_or(0);
  request.no_store = read_no_store(fields);
  read_stop(fields, request);
  read_logit_bias(fields, sampling);
  read_stream_options(fields, call);
  fields.ignore({"user"});
}

std::string read_content(JsonFields& message, bool may_be_null) {
  Json* content = message.find("content");
  if (content == nullptr) {
    if (!may_be_null) message.wrong("content", "is required");
    return {};
  }
  if (content->is_string()) return std::move(content->get_ref<std::string&>());
  if (!content->is_array()) {
    message.wrong("content", "must be a string or a list of parts");
    return {};
  }
  std::string joined;
  for (std::size_t i = 0; i < content->size(); ++i) {
    Json& part = (*content)[i];
    const std::string name = "content[" + std::to_string(i) + "]";
    if (!part.is_object()) {
      message.wrong(name, "must be an object");
      return {};
    }
    if (part.value("type", Json()) != "text") {
      message.unsupported(name + ".type", "is not supported: this server takes text only");
      return {};
    }
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) {
      message.wrong(name + ".text", "must be a string");
      return {};
    }
    if (i > 0) joined += '\n';
    joined += text->get_ref<const std::string&>();
  }
  return joined;
}

Result<ChatMessage> read_message(Json& value, const std::string& path) {
  if (!value.is_object()) {
    return fail(
        Error(ErrorCode::invalid_argument, "'" + path + "' must be an object").with_param(path));
  }
  JsonFields fields(value, path + ".");
  fields.require("role");
  ChatMessage message;
  message.role = fields.text("role");
  // OpenAI's newer name for what chat templates call the system.
  if (message.role == "developer") message.role = "system";
  const bool assistant = message.role == "assistant";
  if (!assistant && message.role != "system" && message.role != "user" && message.role != "tool") {
    fields.wrong("role", "must be system, developer, user, assistant or tool");
  }
  message.content = read_content(fields, assistant);
  fields.ignore({"name", "refusal", "tool_call_id"});
  fields.refuse({"tool_calls", "function_call", "audio"});
  if (auto done = fields.finish(); !done) return fail(done.error());
  return message;
}

Result<std::vector<ChatMessage>> read_messages(JsonFields& fields) {
  std::vector<ChatMessage> messages;
  fields.require("messages");
  Json* value = fields.find("messages");
  if (value == nullptr) return messages;
  if (!value->is_array() || value->empty()) {
    fields.wrong("messages", "must be a list of one message or more");
    return messages;
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    auto message = read_message((*value)[i], "messages[" + std::to_string(i) + "]");
    if (!message) return fail(message.error());
    messages.push_back(std::move(*message));
  }
  return messages;
}

void refuse_tools(JsonFields& fields) {
  fields.refuse({"tools", "functions"});
  for (const auto* name : {"tool_choice", "function_call"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && *value != "none" && *value != "auto") {
      fields.unsupported(name, "is not supported: this server calls no tools");
    }
  }
}

void check_response_format(JsonFields& fields) {
  const Json* value = fields.find("response_format");
  if (value == nullptr) return;
  if (!value->is_object()) {
    fields.wrong("response_format", "must be an object");
  } else if (value->value("type", Json()) != "text") {
    fields.unsupported("response_format", "is not supported but for {\"type\": \"text\"}");
  }
}

}  // namespace

Result<GenerationCall> parse_chat_call(std::string_view body, const HoldBytes& hold) {
  auto object = parse_object(body, hold);
  if (!object) return fail(object.error());
  JsonFields fields(*object);
  GenerationCall call;
  call.chat = true;
  GenerateRequest request;
  read_common(fields, call, request);

  auto messages = read_messages(fields);
  if (!messages) return fail(messages.error());
  request.input = std::move(*messages);

  call.logprobs = fields.boolean("logprobs");
  const auto top = fields.integer<std::int32_t>("top_logprobs", 0, max_top_logprobs);
  if (top && !call.logprobs) fields.wrong("top_logprobs", "needs 'logprobs' to be true");
  if (call.logprobs) request.sampling.top_logprobs = top.value_or(0);

  const auto older = fields.integer<std::uint32_t>("max_tokens", 1, max_int32);
  const auto newer = fields.integer<std::uint32_t>("max_completion_tokens", 1, max_int32);
  if (older && newer && *older != *newer) {
    fields.wrong("max_tokens", "and 'max_completion_tokens' differ: give one of them");
  }
  request.max_tokens = newer ? newer : older;

  if (const Json* modalities = fields.find("modalities");
      modalities != nullptr && *modalities != Json::array({"text"})) {
    fields.unsupported("modalities", "is not supported but for [\"text\"]");
  }
  refuse_tools(fields);
  check_response_format(fields);
  fields.refuse({"audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"});
  fields.ignore({"store", "metadata", "service_tier", "parallel_tool_calls", "safety_identifier",
                 "prompt_cache_key", "prompt_cache_retention"});
  if (auto done = fields.finish(); !done) return fail(done.error());
  call.requests.push_back(std::move(request));
  return call;
}

Result<GenerationCall> parse_completion_call(std::string_view body, const HoldBytes& hold) {
  auto object = parse_object(body, hold);
  if (!object) return fail(object.error());
  JsonFields fields(*object);
  GenerationCall call;
  GenerateRequest request;
  read_common(fields, call, request);

  request.echo = fields.boolean("echo");
  const auto logprobs = fields.integer<std::int32_t>("logprobs", 0, max_top_logprobs);
  call.logprobs = logprobs.has_value();
  request.sampling.top_logprobs = logprobs.value_or(-1);
  constexpr std::uint32_t default_max_tokens = 16;  // OpenAI's
  request.max_tokens =
      fields.integer<std::uint32_t>("max_tokens", 0, max_int32).value_or(default_max_tokens);
  if (request.max_tokens == 0 && !request.echo) {
    fields.wrong("max_tokens", "may be 0 only with 'echo'");
  }
  const auto best_of = fields.integer<std::uint32_t>("best_of", 1, max_choices);
  if (best_of && *best_of != request.choices) {
    fields.unsupported("best_of", "is not supported but where it equals 'n'");
  }
  if (!fields.text("suffix").empty()) fields.unsupported("suffix", "is not supported");
  fields.ignore({"store", "metadata", "service_tier"});
  auto prompts = read_inputs(fields, "prompt", max_choices);
  if (static_cast<std::int64_t>(prompts.size() * request.choices) > max_choices) {
    fields.wrong("prompt", "times 'n' may be " + std::to_string(max_choices) + " at most");
  }
  if (auto done = fields.finish(); !done) return fail(done.error());

  for (auto& prompt : prompts) {
    auto& one = call.requests.emplace_back(request);
    std::visit([&](auto& input) { one.input = std::move(input); }, prompt);
  }
  return call;
}

Result<EmbeddingCall> parse_embedding_call(std::string_view body, const HoldBytes& hold) {
  auto object = parse_object(body, hold);
  if (!object) return fail(object.error());
  JsonFields fields(*object);
  EmbeddingCall call;
  call.request.model = read_model(fields);
  call.request.inputs = read_inputs(fields, "input", max_inputs);
  const std::string format = fields.text("encoding_format");
  if (!format.empty() && format != "float" && format != "base64") {
    fields.wrong("encoding_format", "must be float or base64");
  }
  call.base64 = format == "base64";
  call.request.no_store = read_no_store(fields);
  fields.refuse({"dimensions"});
  fields.ignore({"user"});
  if (auto done = fields.finish(); !done) return fail(done.error());
  return call;
}

}  // namespace plimsoll
