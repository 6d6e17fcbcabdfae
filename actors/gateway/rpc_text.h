// Between the schema's texts and errors and our own.
#pragma once

#include <capnp/common.h>

#include <string>
#include <string_view>

#include "engine/base/result.h"
#include "schema/error.capnp.h"

namespace plimsoll {

// Valid as long as the text itself, which must be followed by a zero byte.
inline kj::StringPtr text_of(const std::string& text) { return {text.c_str(), text.size()}; }
inline kj::StringPtr text_of(std::string_view text) { return {text.data(), text.size()}; }
inline std::string string_of(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

inline void write(const Error& error, schema::Error::Builder out) {
  out.setCode(text_of(to_string(error.code)));
  out.setMessage(text_of(error.message));
  out.setReason(text_of(error.reason));
  out.setParam(text_of(error.param));
  out.setRetryAfterMs(error.retry_after_ms);
}

// A code that is not known here is `internal`.
inline Error read(schema::Error::Reader in) {
  Error error(ErrorCode::internal, string_of(in.getMessage()));
  const auto name = string_of(in.getCode());
  for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i) {
    if (to_string(static_cast<ErrorCode>(i)) == name) error.code = static_cast<ErrorCode>(i);
  }
  error.reason = string_of(in.getReason());
  error.param = string_of(in.getParam());
  error.retry_after_ms = in.getRetryAfterMs();
  return error;
}

}  // namespace plimsoll
