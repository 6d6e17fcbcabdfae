// Result<T> and the one error type that crosses module boundaries.
//
// A function returns Result<T> where its caller is expected to act on the failure. Exceptions are
// for programming errors and start-up only; none crosses an actor or RPC boundary.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace plimsoll {

enum class ErrorCode : std::uint8_t {
  invalid_argument,     // the caller's input is wrong; the same call will fail again
  unauthenticated,      // no credential, or one that is not known
  permission_denied,    // the credential is known and may not do this
  not_found,            // no such model, tenant, file, ...
  already_exists,       // the name is taken
  failed_precondition,  // not in this state; what must be done first is said
  malformed,            // a file or message breaks its format; `offset` says where
  unsupported,          // well-formed, but not something this build handles
  resource_exhausted,   // a budget is spent; `retry_after_ms` says when to come again
  unavailable,          // not now: starting, draining, or a peer is gone; retryable
  deadline_exceeded,    // the caller's or the operator's time limit passed
  cancelled,            // the caller went away or asked to stop
  internal,             // a bug on our side
};

// The stable, machine-readable name of a code ("invalid_argument", ...).
std::string_view to_string(ErrorCode code);

struct Error {
  static constexpr std::uint64_t no_offset = ~std::uint64_t{0};

  Error() = default;
  Error(ErrorCode c, std::string m) : code(c), message(std::move(m)) {}

  Error&& with_reason(std::string r) && {
    reason = std::move(r);
    return std::move(*this);
  }
  Error&& with_param(std::string p) && {
    param = std::move(p);
    return std::move(*this);
  }
  Error&& at(std::uint64_t o) && {
    offset = o;
    return std::move(*this);
  }
  Error&& retry_after(std::uint32_t ms) && {
    retry_after_ms = ms;
    return std::move(*this);
  }

  ErrorCode code = ErrorCode::internal;
  std::string message;               // for a person: what, where, and what to do
  std::string reason;                // for a program, finer than code: "context_length_exceeded"
  std::string param;                 // the request field at fault, if one is
  std::uint64_t offset = no_offset;  // byte offset in the file or message, for `malformed`
  std::uint32_t retry_after_ms = 0;  // 0: retrying is of no use, or no estimate
};

// "malformed at byte 24: tensor count 2^63 is over the limit of 65536"
std::string to_string(const Error& error);

template <class T>
using Result = tl::expected<T, Error>;

// return fail(ErrorCode::not_found, "no model named 'x'");
inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error(code, std::move(message)));
}
inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace plimsoll
