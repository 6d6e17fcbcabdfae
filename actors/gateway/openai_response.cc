#include "actors/gateway/openai_response.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

namespace plimsoll {

namespace {

using Json = nlohmann::ordered_json;

// Bytes that are no UTF-8 become U+FFFD.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool is_utf8(const std::string& bytes) {
  try {
    (void)Json(bytes).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

// JSON has no infinity; this is what OpenAI gives for it.
double finite(float logprob) { return std::max(logprob, -9999.0F); }

Json byte_list(const std::string& bytes) {
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

// The completions API names a token that is a part of a character by its bytes.
std::string legacy_name(const std::string& bytes) {
  if (is_utf8(bytes)) return bytes;
  std::string name = "bytes:";
  for (const unsigned char c : bytes) {
    constexpr const char* digits = "0123456789abcdef";
    name += "\\x";
    name += digits[c >> 4];
    name += digits[c & 15];
  }
  return name;
}

std::uint64_t count_characters(const std::string& bytes) {
  return static_cast<std::uint64_t>(std::count_if(bytes.begin(), bytes.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

void append(std::string& list, const std::string& item) {
  if (!list.empty()) list += ',';
  list += item;
}

Json usage_json(const GenerationUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json reason_json(FinishReason reason) { return reason == FinishReason::length ? "length" : "stop"; }

// `"id": ..., "object": ..., ...` without the braces.
std::string head_text(const AnswerHead& head, bool chunk) {
  const char* object = !head.chat ? "text_completion"
                       : chunk    ? "chat.completion.chunk"
                                  : "chat.completion";
  const std::string text = dump({{"id", head.id},
                                 {"object", object},
                                 {"created", head.created},
                                 {"model", head.model},
                                 {"system_fingerprint", head.fingerprint}});
  return text.substr(1, text.size() - 2);
}

std::string event(const AnswerHead& head, const std::string& choices, const std::string& usage) {
  std::string text = "data: {" + head_text(head, true) + ",\"choices\":[" + choices + "]";
  if (head.include_usage) text += ",\"usage\":" + usage;
  return text + "}\n\n";
}

std::string choice_chunk(std::uint32_t index, const char* content_name, const Json& content,
                         const std::string& logprobs, const Json& reason) {
  return "{\"index\":" + std::to_string(index) + ",\"" + content_name + "\":" + dump(content) +
         ",\"logprobs\":" + logprobs + ",\"finish_reason\":" + dump(reason) + "}";
}

std::string base64(const std::string& bytes) {
  constexpr const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < 3; ++j) {
      group = group << 8 | (j < n ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (std::size_t j = 0; j < 4; ++j) out += j <= n ? digits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string little_endian(const std::vector<float>& vector) {
  std::string bytes;
  bytes.reserve(vector.size() * 4);
  for (const float value : vector) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 255);
  }
  return bytes;
}

std::string number_list(const std::vector<float>& vector) {
  std::string out = "[";
  char digits[32];
  for (const float value : vector) {
    if (out.size() > 1) out += ',';
    out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  }
  return out + "]";
}

Json card_json(const ModelCard& card) {
  return {{"id", card.name},
          {"object", "model"},
          {"created", card.created},
          {"owned_by", "plimsoll"},
          {"kind", card.info.kind == ModelKind::causal ? "causal" : "embedding"},
          {"context_tokens", card.context_tokens}};
}

std::string whole(double number) {
  return std::to_string(static_cast<std::uint64_t>(std::clamp(number, 0.0, 1e18)));
}

// As OpenAI's headers have it: "20ms", "1.5s", "6m0s", "1h0m0s".
std::string duration_text(double seconds) {
  auto ms = static_cast<std::uint64_t>(std::ceil(std::clamp(seconds * 1000, 0.0, 1e15)));
  if (ms < 1000) return std::to_string(ms) + "ms";
  if (ms >= 60'000) ms = (ms + 999) / 1000 * 1000;
  const std::uint64_t minutes = ms / 60'000;
  std::string text;
  if (minutes >= 60) text += std::to_string(minutes / 60) + "h";
  if (minutes > 0) text += std::to_string(minutes % 60) + "m";
  text += std::to_string(ms % 60'000 / 1000);
  if (const auto rest = ms % 1000; rest > 0) {
    text += "." + std::to_string(1000 + rest).substr(1);
    while (text.back() == '0') text.pop_back();
  }
  return text + "s";
}

}  // namespace

void LogprobText::add(const std::vector<TokenText>& tokens) {
  for (const auto& token : tokens) {
    if (chat_) {
      Json top = Json::array();
      for (const auto& other : token.top) {
        top.push_back({{"token", other.bytes},
                       {"logprob", finite(other.logprob)},
                       {"bytes", byte_list(other.bytes)}});
      }
      append(tokens_, dump({{"token", token.bytes},
                            {"logprob", finite(token.logprob.value_or(0.0F))},
                            {"bytes", byte_list(token.bytes)},
                            {"top_logprobs", std::move(top)}}));
      continue;
    }
    Json top;  // null for the first token of a prompt
    if (token.logprob) {
      top = Json::object();
      for (const auto& other : token.top) top[legacy_name(other.bytes)] = finite(other.logprob);
      top[legacy_name(token.bytes)] = finite(*token.logprob);
    }
    append(tokens_, dump(legacy_name(token.bytes)));
    append(logprobs_, token.logprob ? dump(finite(*token.logprob)) : "null");
    append(top_, dump(top));
    append(offsets_, std::to_string(offset_));
    offset_ += count_characters(token.bytes);
  }
}

std::string LogprobText::json() const {
  if (chat_) return "{\"content\":[" + tokens_ + "],\"refusal\":null}";
  return "{\"tokens\":[" + tokens_ + "],\"token_logprobs\":[" + logprobs_ + "],\"top_logprobs\":[" +
         top_ + "],\"text_offset\":[" + offsets_ + "]}";
}

void LogprobText::clear() {
  for (auto* text : {&tokens_, &logprobs_, &top_, &offsets_}) text->clear();
}

std::uint64_t LogprobText::bytes() const {
  return tokens_.capacity() + logprobs_.capacity() + top_.capacity() + offsets_.capacity();
}

WholeAnswer::WholeAnswer(AnswerHead head, std::uint32_t choices)
    : head_(std::move(head)), choices_(choices, Choice{{}, LogprobText(head_.chat)}) {}

void WholeAnswer::add(std::uint32_t choice, const GenerationDelta& delta) {
  choices_[choice].text += delta.text;
  if (head_.logprobs) choices_[choice].logprobs.add(delta.tokens);
}

void WholeAnswer::end(std::uint32_t choice, FinishReason reason) {
  choices_[choice].reason = reason;
}

std::string WholeAnswer::json(const GenerationUsage& usage) const {
  std::string out = "{" + head_text(head_, false) + ",\"choices\":[";
  for (std::uint32_t i = 0; i < choices_.size(); ++i) {
    const auto& choice = choices_[i];
    const std::string logprobs = head_.logprobs ? choice.logprobs.json() : "null";
    const Json reason = reason_json(choice.reason);
    if (i > 0) out += ',';
    if (head_.chat) {
      const Json message{{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
      out += choice_chunk(i, "message", message, logprobs, reason);
    } else {
      out += choice_chunk(i, "text", choice.text, logprobs, reason);
    }
  }
  return out + "],\"usage\":" + dump(usage_json(usage)) + "}";
}

std::uint64_t WholeAnswer::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& choice : choices_) sum += choice.text.capacity() + choice.logprobs.bytes();
  return sum;
}

StreamedAnswer::StreamedAnswer(AnswerHead head, std::uint32_t choices)
    : head_(std::move(head)), choices_(choices, Choice{LogprobText(head_.chat)}) {}

std::string StreamedAnswer::begin(std::uint32_t choice) {
  if (std::exchange(choices_[choice].begun, true) || !head_.chat) return {};
  const Json delta{{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}};
  return event(head_, choice_chunk(choice, "delta", delta, "null", nullptr), "null");
}

std::string StreamedAnswer::add(std::uint32_t choice, const GenerationDelta& delta) {
  if (delta.text.empty() && (!head_.logprobs || delta.tokens.empty())) return {};
  std::string logprobs = "null";
  if (head_.logprobs) {
    auto& text = choices_[choice].logprobs;
    text.add(delta.tokens);
    logprobs = text.json();
    text.clear();
  }
  std::string out = begin(choice);
  const std::string chunk =
      head_.chat ? choice_chunk(choice, "delta", {{"content", delta.text}}, logprobs, nullptr)
                 : choice_chunk(choice, "text", delta.text, logprobs, nullptr);
  return out + event(head_, chunk, "null");
}

std::string StreamedAnswer::end(std::uint32_t choice, FinishReason reason) {
  // The error event that follows says more.
  if (reason == FinishReason::cancelled || reason == FinishReason::error) return {};
  std::string out = begin(choice);
  const std::string chunk =
      head_.chat ? choice_chunk(choice, "delta", Json::object(), "null", reason_json(reason))
                 : choice_chunk(choice, "text", "", "null", reason_json(reason));
  return out + event(head_, chunk, "null");
}

std::string StreamedAnswer::finish(const GenerationUsage& usage) const {
  std::string out;
  if (head_.include_usage) out = event(head_, "", dump(usage_json(usage)));
  return out + "data: [DONE]\n\n";
}

std::string StreamedAnswer::failed(const Error& error) {
  return "data: " + error_json(error, http_status(error)) + "\n\n";
}

std::string make_answer_id(std::string_view prefix) {
  constexpr std::string_view letters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::uniform_int_distribution<std::size_t> pick(0, letters.size() - 1);
  std::string id(prefix);
  for (int i = 0; i < 24; ++i) id += letters[pick(random)];
  return id;
}

std::uint64_t predict_embeddings_bytes(const EmbedResponse& response) {
  constexpr std::uint64_t number_bytes = 20;  // 4, and up to 16 as text
  constexpr std::uint64_t item_bytes = 128;
  std::uint64_t sum = 512;
  for (const auto& vector : response.embeddings) sum += vector.size() * number_bytes + item_bytes;
  return sum;
}

std::string embeddings_json(const EmbedResponse& response, const std::string& model, bool base64_) {
  std::string out = R"({"object":"list","data":[)";
  for (std::size_t i = 0; i < response.embeddings.size(); ++i) {
    const auto& vector = response.embeddings[i];
    if (i > 0) out += ',';
    out += R"({"object":"embedding","index":)" + std::to_string(i) + R"(,"embedding":)" +
           (base64_ ? '"' + base64(little_endian(vector)) + '"' : number_list(vector)) + "}";
  }
  const Json usage{{"prompt_tokens", response.prompt_tokens},
                   {"total_tokens", response.prompt_tokens},
                   {"prompt_tokens_details", {{"cached_tokens", response.cached_tokens}}}};
  return out + R"(],"model":)" + dump(model) + R"(,"usage":)" + dump(usage) + "}";
}

std::string model_json(const ModelCard& card) { return dump(card_json(card)); }

std::string models_json(const std::vector<ModelCard>& cards) {
  Json data = Json::array();
  for (const auto& card : cards) data.push_back(card_json(card));
  return dump({{"object", "list"}, {"data", std::move(data)}});
}

std::string error_json(const Error& error, int status) {
  const char* type = status == 401   ? "authentication_error"
                     : status == 403 ? "permission_error"
                     : status == 429 ? "rate_limit_error"
                     : status >= 500 ? "server_error"
                                     : "invalid_request_error";
  const Json param = error.param.empty() ? Json() : Json(error.param);
  const std::string code(error.reason.empty() ? to_string(error.code) : error.reason);
  return dump(
      {{"error", {{"message", error.message}, {"type", type}, {"param", param}, {"code", code}}}});
}

int http_status(const Error& error) {
  switch (error.code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::malformed:
    case ErrorCode::unsupported: return 400;
    case ErrorCode::unauthenticated: return 401;
    case ErrorCode::permission_denied: return 403;
    case ErrorCode::not_found: return 404;
    case ErrorCode::already_exists:
    case ErrorCode::failed_precondition: return 409;
    case ErrorCode::resource_exhausted: return error.reason == "overloaded" ? 503 : 429;
    case ErrorCode::unavailable: return 503;
    case ErrorCode::deadline_exceeded: return 504;
    case ErrorCode::cancelled: return 499;  // nginx's: the client is gone, or has asked for it
    case ErrorCode::internal: return 500;
  }
  return 500;
}

std::vector<std::pair<std::string, std::string>> rate_limit_headers(const RateLimits& limits) {
  std::vector<std::pair<std::string, std::string>> headers;
  const auto add = [&](const cluster::RateState& rate, const std::string& what) {
    if (rate.limit <= 0) return;
    headers.emplace_back("x-ratelimit-limit-" + what, whole(std::ceil(rate.limit)));
    headers.emplace_back("x-ratelimit-remaining-" + what, whole(std::floor(rate.remaining)));
    headers.emplace_back("x-ratelimit-reset-" + what, duration_text(rate.reset_s));
  };
  const auto left = [](const cluster::RateState& rate) {
    return rate.limit > 0 ? rate.remaining / rate.limit : 2.0;
  };
  const auto& prompt = limits.prompt_tokens;
  const auto& generated = limits.generated_tokens;
  add(limits.requests, "requests");
  add(left(generated) < left(prompt) ? generated : prompt, "tokens");
  return headers;
}

}  // namespace plimsoll
