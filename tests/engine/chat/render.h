// What the chat template tests share.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/chat_template.h"

namespace plimsoll {

inline std::string join(const std::vector<RenderedPart>& parts) {
  std::string text;
  for (const RenderedPart& part : parts) text += part.text;
  return text;
}

inline Result<std::vector<RenderedPart>> render(std::string_view source,
                                                const nlohmann::ordered_json& context = {},
                                                ChatTemplateLimits limits = {}) {
  auto parsed = ChatTemplate::parse(source, limits);
  if (!parsed) return fail(parsed.error());
  return parsed->render(context.is_null() ? nlohmann::ordered_json::object() : context);
}

}  // namespace plimsoll
