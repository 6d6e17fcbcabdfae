#include "actors/text_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace plimsoll {
namespace {

Error bad(std::string param, std::string message) {
  return Error(ErrorCode::invalid_argument, std::move(message)).with_param(std::move(param));
}

Error too_long(std::string param, std::string message) {
  return Error(ErrorCode::invalid_argument, std::move(message))
      .with_param(std::move(param))
      .with_reason("context_length_exceeded");
}

// What may stand in a log line as it is.
bool is_name(std::string_view id) {
  return id.size() <= RequestLimits::id_bytes && std::ranges::all_of(id, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  c == '.' || c == '_' || c == ':' || c == '-';
         });
}

bool known_role(std::string_view role) {
  return role == "system" || role == "user" || role == "assistant" || role == "tool";
}

// Copies of a text as a template's values, its output and one piece, and its tokens.
constexpr std::uint64_t text_copies = 8;
constexpr std::uint64_t merged_bytes = 52;    // of a word; see Tokenizer::encode()
constexpr std::uint64_t message_bytes = 512;  // of one, as a template's values
constexpr std::uint64_t least_bytes = 4096;

const char* input_param(const GenerateRequest& request) {
  return request.input.index() == 0 ? "messages" : "prompt";
}

}  // namespace

TextModel::TextModel(std::string name, ModelText text, std::uint32_t context_tokens,
                     cluster::KvBytes kv_bytes, std::string version)
    : name_(std::move(name)),
      version_(std::move(version)),
      tokenizer_(std::move(text.tokenizer)),
      context_tokens_(context_tokens),
      kv_bytes_(kv_bytes) {
  if (text.chat_template.empty()) {
    chat_problem_ = "it has no chat template";
  } else if (auto parsed = ChatTemplate::parse(text.chat_template)) {
    template_ = std::move(*parsed);
  } else {
    chat_problem_ = "its chat template cannot be read: " + to_string(parsed.error());
  }
  for (std::uint32_t i = 0; i < tokenizer_->vocab_size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    longest_token_bytes_ = std::max(longest_token_bytes_, tokenizer_->token_bytes(id).size());
    if (tokenizer_->is_end_of_generation(id)) end_tokens_.push_back(id);
  }
}

Result<void> TextModel::check(const GenerateRequest& request) const {
  if (request.choices < 1 || request.choices > RequestLimits::choices) {
    return fail(bad(
        "n", fmt::format("n is {}; it must be 1 to {}", request.choices, RequestLimits::choices)));
  }
  if (request.stop.size() > RequestLimits::stop_strings) {
    return fail(bad("stop", fmt::format("{} stop strings; at most {} are allowed",
                                        request.stop.size(), RequestLimits::stop_strings))
                    .with_reason("stop_list"));
  }
  for (const auto& stop : request.stop) {
    if (stop.empty() || stop.size() > RequestLimits::stop_bytes) {
      return fail(bad("stop", fmt::format("a stop string of {} bytes; it must have 1 to {}",
                                          stop.size(), RequestLimits::stop_bytes))
                      .with_reason("stop_list"));
    }
  }
  if (!is_name(request.id)) {
    return fail(bad("requestId", fmt::format("requestId must be at most {} letters, digits and "
                                             "\"._:-\"",
                                             RequestLimits::id_bytes)));
  }
  if (!request.resumed.empty() && request.resumed.size() != request.choices) {
    return fail(bad("resume", fmt::format("resume has {} choices of {}: give each its own, or none",
                                          request.resumed.size(), request.choices)));
  }
  for (const auto& received : request.resumed) {
    if (received.tokens.empty()) continue;
    if (auto valid = check_tokens(received.tokens, "resume"); !valid) return valid;
  }
  if (request.max_tokens == 0U && !request.echo) {
    return fail(bad("max_tokens", "max_tokens is 0; only a request with echo may have that"));
  }
  if (auto valid = validate(request.sampling); !valid) return valid;
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= tokenizer_->vocab_size()) {
      return fail(bad("logit_bias", fmt::format("token {} is not in the vocabulary of {}", id,
                                                tokenizer_->vocab_size())));
    }
  }
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    if (request.echo) return fail(bad("echo", "echo is for prompts, not for messages"));
    if (messages->empty()) return fail(bad("messages", "messages is empty"));
    if (messages->size() > RequestLimits::messages) {
      return fail(bad("messages", fmt::format("{} messages; at most {} are allowed",
                                              messages->size(), RequestLimits::messages)));
    }
    for (std::size_t i = 0; i < messages->size(); ++i) {
      const auto& role = (*messages)[i].role;
      if (!known_role(role)) {
        return fail(bad("messages",
                        fmt::format("messages[{}].role is '{}'; it must be system, user, assistant "
                                    "or tool",
                                    i, role.substr(0, 64))));
      }
    }
    if (!template_) {
      return fail(bad("messages", fmt::format("model '{}' does not chat: {}. Use completions",
                                              name_, chat_problem_)));
    }
  }
  return {};
}

Result<void> TextModel::check_bytes(std::size_t bytes, std::size_t token_bytes,
                                    const std::string& param) const {
  const std::size_t cap = context_tokens_ * token_bytes;
  if (bytes <= cap) return {};
  return fail(too_long(param, fmt::format("the input has {} bytes: more than the {} that the "
                                          "context of {} tokens can hold at most",
                                          bytes, cap, context_tokens_)));
}

Result<void> TextModel::check_tokens(const std::vector<TokenId>& tokens,
                                     const std::string& param) const {
  if (tokens.empty()) return fail(bad(param, "the input has no tokens"));
  if (tokens.size() > context_tokens_) {
    return fail(too_long(param, fmt::format("the input has {} tokens: more than the context of {}",
                                            tokens.size(), context_tokens_)));
  }
  for (const TokenId id : tokens) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= tokenizer_->vocab_size()) {
      return fail(bad(param, fmt::format("token {} is not in the vocabulary of {}", id,
                                         tokenizer_->vocab_size())));
    }
  }
  return {};
}

std::uint64_t TextModel::encode_bytes(const GenerateRequest& request) const {
  std::uint64_t bytes = 0, count = 0, longest = 0;
  const auto add = [&](std::string_view text) {
    bytes += text.size();
    ++count;
    longest = std::max<std::uint64_t>(longest, tokenizer_->longest_word(text));
  };
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    for (const auto& message : *messages) add(message.content);
  } else if (const auto* text = std::get_if<std::string>(&request.input)) {
    add(*text);
  } else {
    return std::get<std::vector<TokenId>>(request.input).size() * sizeof(TokenId);
  }
  if (bytes > context_tokens_ * longest_token_bytes_) return 0;  // refused as it is
  return least_bytes + text_copies * bytes + message_bytes * count + merged_bytes * longest;
}

std::uint64_t TextModel::encode_bytes(const EmbedRequest& request) const {
  std::uint64_t tokens = 0, largest = 0;
  for (const auto& input : request.inputs) {
    if (const auto* text = std::get_if<std::string>(&input)) {
      tokens += 2 * text->size();
      largest = std::max(
          largest, text_copies * text->size() + merged_bytes * tokenizer_->longest_word(*text));
    } else {
      tokens += std::get<std::vector<TokenId>>(input).size() * sizeof(TokenId);
    }
  }
  return least_bytes + tokens + largest;
}

Result<std::vector<TokenId>> TextModel::encode(const GenerateRequest& request) const {
  auto rendered = render(request);
  if (!rendered) return fail(std::move(rendered.error()));
  return encode(request, *rendered);
}

Result<std::vector<RenderedPart>> TextModel::render(const GenerateRequest& request) const {
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    return render_chat(*messages);
  }
  if (const auto* text = std::get_if<std::string>(&request.input)) {
    if (auto fits = check_bytes(text->size(), longest_token_bytes_, "prompt"); !fits) {
      return fail(std::move(fits.error()));
    }
  }
  return std::vector<RenderedPart>();
}

Result<std::vector<TokenId>> TextModel::encode(const GenerateRequest& request,
                                               const std::vector<RenderedPart>& rendered) const {
  Result<std::vector<TokenId>> tokens;
  if (std::holds_alternative<std::vector<ChatMessage>>(request.input)) {
    std::vector<TextPart> text;
    text.reserve(rendered.size());
    for (const auto& part : rendered) text.push_back({part.text, part.from_template});
    // The template writes BOS itself where the model wants one, as transformers takes it.
    tokens = tokenizer_->encode_parts(text, false);
  } else if (const auto* text = std::get_if<std::string>(&request.input)) {
    tokens = tokenizer_->encode(*text, {.add_special = true, .parse_special = false});
  } else {
    tokens = std::get<std::vector<TokenId>>(request.input);
  }
  if (!tokens) return tokens;
  if (auto valid = check_prompt(request, *tokens); !valid) return fail(std::move(valid.error()));
  return tokens;
}

Result<void> TextModel::check_prompt(const GenerateRequest& request,
                                     const std::vector<TokenId>& tokens) const {
  return check_tokens(tokens, input_param(request));
}

Result<std::vector<RenderedPart>> TextModel::render_chat(
    const std::vector<ChatMessage>& messages) const {
  std::size_t bytes = 0;
  auto list = nlohmann::json::array();
  for (const auto& message : messages) {
    bytes += message.content.size();
    if (auto fits = check_bytes(bytes, longest_token_bytes_, "messages"); !fits) {
      return fail(std::move(fits.error()));
    }
    list.push_back({{"role", message.role}, {"content", message.content}});
  }
  const auto special = [this](TokenId id) {
    return id == no_token ? std::string() : tokenizer_->token_bytes(id);
  };
  const nlohmann::json context = {{"messages", std::move(list)},
                                  {"add_generation_prompt", true},
                                  {"bos_token", special(tokenizer_->bos())},
                                  {"eos_token", special(tokenizer_->eos())}};
  auto parts = template_->render(context);
  if (!parts) {
    auto error = std::move(parts.error());
    error.param = "messages";
    return fail(std::move(error));
  }
  return parts;
}

Result<std::uint32_t> TextModel::generation_cap(const GenerateRequest& request,
                                                std::size_t prompt_tokens) const {
  const auto left = static_cast<std::uint32_t>(context_tokens_ - prompt_tokens);
  if (!request.max_tokens && left == 0) {
    return fail(too_long(input_param(request),
                         fmt::format("the input's {} tokens fill the context of {}: no room is "
                                     "left for an answer",
                                     prompt_tokens, context_tokens_)));
  }
  const std::uint32_t cap = request.max_tokens.value_or(left);
  if (cap > left) {
    return fail(too_long("max_tokens",
                         fmt::format("the input has {} tokens and max_tokens is {}: together more "
                                     "than the context of {}",
                                     prompt_tokens, cap, context_tokens_)));
  }
  for (const auto& received : request.resumed) {
    if (received.tokens.size() <= cap) continue;
    return fail(
        bad("resume", fmt::format("resume has {} tokens of a choice that may have {} in all",
                                  received.tokens.size(), cap)));
  }
  return cap;
}

Result<std::vector<TokenId>> TextModel::encode_input(
    const std::variant<std::string, std::vector<TokenId>>& input, std::size_t index) const {
  const auto param = "input";
  const auto named = [&](Error error) {
    error.message = fmt::format("input[{}]: {}", index, error.message);
    return fail(std::move(error));
  };
  Result<std::vector<TokenId>> tokens;
  if (const auto* text = std::get_if<std::string>(&input)) {
    if (text->empty()) return named(bad(param, "the input is an empty string"));
    // WordPiece drops white space and control characters: allow for much of it.
    const std::size_t generous = std::max<std::size_t>(256, longest_token_bytes_);
    if (auto fits = check_bytes(text->size(), generous, param); !fits) return named(fits.error());
    tokens = tokenizer_->encode(*text, {.add_special = true, .parse_special = false});
  } else {
    tokens = std::get<std::vector<TokenId>>(input);
  }
  if (!tokens) return named(std::move(tokens.error()));
  if (auto valid = check_tokens(*tokens, param); !valid) return named(std::move(valid.error()));
  return tokens;
}

}  // namespace plimsoll
