// A model's text side: what turns a request in text into token ids, checked against every limit
// before anything is reserved for it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "actors/frontend.h"
#include "cluster/kv_bytes.h"
#include "engine/base/result.h"
#include "engine/chat/chat_template.h"
#include "engine/models/model.h"
#include "engine/tokenizer/tokenizer.h"

namespace plimsoll {

struct RequestLimits {
  static constexpr std::uint32_t choices = 16;
  static constexpr std::size_t stop_strings = 16;
  static constexpr std::size_t stop_bytes = 256;
  static constexpr std::size_t id_bytes = 128;
  static constexpr std::size_t messages = 4096;
  static constexpr std::size_t embedding_inputs = 2048;
};

// Immutable: any number of threads may use one.
class TextModel {
 public:
  // `context_tokens` is what is served. Errors: those of the chat template; a template that this
  // build does not handle leaves a model without chat, and `chat_problem()` says why.
  TextModel(std::string name, ModelText text, std::uint32_t context_tokens,
            cluster::KvBytes kv_bytes = {}, std::string version = {});

  const std::string& name() const { return name_; }
  const std::string& version() const { return version_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::uint32_t context_tokens() const { return context_tokens_; }
  const cluster::KvBytes& kv_bytes() const { return kv_bytes_; }
  const std::vector<TokenId>& end_tokens() const { return end_tokens_; }  // of generation
  const std::string& chat_problem() const { return chat_problem_; }

  // Everything about a request but its text: cheap. Errors: invalid_argument with `param`.
  Result<void> check(const GenerateRequest& request) const;

  // The prompt in tokens, 1 to context_tokens of them. Special tokens are read in the chat
  // template's own text only. Errors: invalid_argument, with the reason context_length_exceeded
  // where it is too long.
  Result<std::vector<TokenId>> encode(const GenerateRequest& request) const;

  // The same in steps. First a chat as its template renders it, else nothing; the request's text is
  // checked.
  Result<std::vector<RenderedPart>> render(const GenerateRequest& request) const;
  // Then its tokens.
  Result<std::vector<TokenId>> encode(const GenerateRequest& request,
                                      const std::vector<RenderedPart>& rendered) const;
  // Tokens that are a prompt's, wherever they come from. Errors as encode().
  Result<void> check_prompt(const GenerateRequest& request,
                            const std::vector<TokenId>& tokens) const;

  // What encode(), or encode_input() of all inputs, takes beside the request, at most.
  std::uint64_t encode_bytes(const GenerateRequest& request) const;
  std::uint64_t encode_bytes(const EmbedRequest& request) const;

  // How many tokens may be generated after `prompt_tokens`, those of `resumed` among them. Errors:
  // context_length_exceeded, or more than that in `resumed`.
  Result<std::uint32_t> generation_cap(const GenerateRequest& request,
                                       std::size_t prompt_tokens) const;

  // One input of an embedding request. Errors as encode().
  Result<std::vector<TokenId>> encode_input(
      const std::variant<std::string, std::vector<TokenId>>& input, std::size_t index) const;

 private:
  Result<std::vector<RenderedPart>> render_chat(const std::vector<ChatMessage>& messages) const;
  Result<void> check_tokens(const std::vector<TokenId>& tokens, const std::string& param) const;
  Result<void> check_bytes(std::size_t bytes, std::size_t token_bytes,
                           const std::string& param) const;

  std::string name_, version_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  std::string chat_problem_;
  std::uint32_t context_tokens_;
  cluster::KvBytes kv_bytes_;
  std::size_t longest_token_bytes_ = 1;
  std::vector<TokenId> end_tokens_;
};

}  // namespace plimsoll
