#include "engine/chat/meter.h"

namespace plimsoll::jinja {

void fail_render(std::string message) {
  throw TemplateError{
      Error(ErrorCode::invalid_argument, std::move(message)).with_reason("template_error")};
}

void fail_unsupported(std::string construct) {
  throw TemplateError{Error(ErrorCode::unsupported, "not supported: " + std::move(construct))};
}

void fail_limit(std::string message) {
  throw TemplateError{
      Error(ErrorCode::resource_exhausted, std::move(message)).with_reason("template_limit")};
}

}  // namespace plimsoll::jinja
