// The Operator capability of the schema: status and memory from the Frontend, all else from its
// Administration, on threads that may block.
#pragma once

#include <memory>
#include <string>

#include "actors/gateway/rpc_session.h"
#include "schema/operator.capnp.h"

namespace plimsoll {

// Errors: unauthenticated; permission_denied for keys without the operator's rights.
Result<void> check_operator(const Frontend& frontend, const std::string& api_key);

// The rights of `api_key` are checked again on every call: a revoked key loses them at once.
schema::Operator::Client make_rpc_operator(std::shared_ptr<RpcShared> shared, std::string api_key);

}  // namespace plimsoll
