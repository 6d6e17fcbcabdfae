#include "engine/chat/chat_template.h"

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/chat/interpreter.h"
#include "engine/chat/lexer.h"
#include "engine/chat/parser.h"
#include "engine/chat/unicode.h"

namespace plimsoll {

struct ChatTemplate::Program {
  ChatTemplateLimits limits;
  jinja::Block block;
  std::vector<std::size_t> line_ends;  // offsets of newlines
};

namespace {

std::vector<std::size_t> find_line_ends(std::string_view source) {
  std::vector<std::size_t> ends;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\n') ends.push_back(i);
  }
  return ends;
}

// "line 3: ..."; what a template raises itself is left as it is.
Error locate(Error error, const std::vector<std::size_t>& line_ends) {
  if (error.reason == "template_raised" || error.offset == Error::no_offset) return error;
  const auto line =
      std::lower_bound(line_ends.begin(), line_ends.end(), error.offset) - line_ends.begin() + 1;
  error.message = "chat template, line " + std::to_string(line) + ": " + error.message;
  return error;
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, ChatTemplateLimits limits) {
  if (source.size() > limits.source_bytes) {
    return fail(Error(ErrorCode::resource_exhausted,
                      "the chat template has " + std::to_string(source.size()) +
                          " bytes, over the limit of " + std::to_string(limits.source_bytes))
                    .with_reason("template_limit"));
  }
  if (!jinja::is_valid_utf8(source)) {
    return fail(ErrorCode::malformed, "the chat template is not valid UTF-8");
  }
  const std::string text = jinja::normalize_newlines(source);
  auto program = std::make_unique<Program>();
  program->limits = limits;
  program->line_ends = find_line_ends(text);
  try {
    program->block = jinja::parse_template(text, limits.depth);
  } catch (jinja::TemplateError& failure) {
    return fail(locate(std::move(failure.error), program->line_ends));
  }
  return ChatTemplate(std::move(program));
}

Result<std::vector<RenderedPart>> ChatTemplate::render(const nlohmann::ordered_json& context,
                                                       std::time_t now) const {
  if (!context.is_object()) {
    return fail(ErrorCode::invalid_argument, "the context of a chat template must be an object");
  }
  jinja::Interpreter interpreter(program_->limits, now);
  try {
    const jinja::String text = interpreter.render(program_->block, context);
    std::vector<RenderedPart> parts;
    parts.reserve(text->runs.size());
    std::size_t begin = 0;
    for (const jinja::Run& run : text->runs) {
      parts.push_back({text->bytes.substr(begin, run.end - begin), run.from_template});
      begin = run.end;
    }
    return parts;
  } catch (jinja::TemplateError& failure) {
    if (failure.error.offset == Error::no_offset) failure.error.offset = interpreter.offset();
    return fail(locate(std::move(failure.error), program_->line_ends));
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::resource_exhausted, "no memory left to render the chat template");
  }
}

}  // namespace plimsoll
