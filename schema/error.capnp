@0xa91f6c3d20e85b47;
# How a call of either API fails.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");

struct Error {
  code @0 :Text;
  # invalid_argument, unauthenticated, permission_denied, not_found, unsupported,
  # already_exists, failed_precondition,
  # resource_exhausted, unavailable, deadline_exceeded, cancelled or internal.
  message @1 :Text;
  reason @2 :Text;
  # Finer than the code: "context_length_exceeded". May be empty.
  param @3 :Text;
  # The field at fault, if one is.
  retryAfterMs @4 :UInt32;
  # 0: retrying is of no use, or no estimate.
}
