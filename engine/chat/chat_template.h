// A model's own chat template: the subset of Jinja2 that published templates use, interpreted
// with limits. Output is identical to Jinja2's with trim_blocks, lstrip_blocks, loop controls and
// the immutable sandbox on, as Hugging Face transformers renders it.
//
// Left out, and refused when the template is parsed: inheritance and imports (extends, block,
// include, import, from), recursive loops, autoescape, *args and **kwargs, and the filters that
// make HTML or random output. Two differences remain: filters that give a generator do their work
// (and fail) when called and not when read, and a name that a scope assigns only further down is
// looked up in the context until then, where Jinja2 holds it undefined in inner scopes.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll {

struct ChatTemplateLimits {
  std::size_t source_bytes = 256 << 10;
  std::size_t output_bytes = 16 << 20;  // of the rendered prompt, and of any one string on the way
  std::size_t memory_bytes = 64 << 20;  // a render's most at one time: context, values and output
  std::size_t steps = 2'000'000;        // evaluated nodes, loop turns, and 256-byte pieces of text
  std::size_t depth = 400;              // nesting of expressions, blocks, macro calls, values;
                                        // the default needs 1 MiB of stack
};

// A rendered prompt as parts: text that came from the template's own source (special tokens in it
// are the model's), and text that came out of variables such as a message's content (special
// tokens in it are the user's text and must not be parsed). Joined, they are the Jinja2 output.
// Neighbours differ in from_template and no part is empty.
//
// Text keeps its origin through concatenation, slicing, trimming, splitting, joining, replacing,
// case changes and formatting. What a filter makes out of a value (tojson, numbers, the repr of a
// list) counts as a variable's, even where the value is a literal.
struct RenderedPart {
  std::string text;
  bool from_template;
};

// Immutable once parsed; any number of threads may render from one at a time.
class ChatTemplate {
 public:
  // Errors: malformed, and unsupported with the construct's name, both with the line in the message
  // and the byte offset (line ends counted as one byte); resource_exhausted over a limit.
  static Result<ChatTemplate> parse(std::string_view source, ChatTemplateLimits limits = {});

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `context` is an object: messages, add_generation_prompt, bos_token, eos_token, tools, ...
  // It is an ordered_json since tojson prints an object's keys in the order they came in.
  // bos_token and eos_token count as the template's own text. `now` is what strftime_now tells.
  // Errors: invalid_argument for raise_exception(...) in the template (its message, with reason
  // "template_raised") and for what Jinja2 would refuse (reason "template_error"); unsupported for
  // what Jinja2 would do and this does not; resource_exhausted when a limit is reached (reason
  // "template_limit").
  Result<std::vector<RenderedPart>> render(const nlohmann::ordered_json& context,
                                           std::time_t now = std::time(nullptr)) const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<const Program> program);
  std::unique_ptr<const Program> program_;
};

}  // namespace plimsoll
