// What a client is told where the router's state machine refuses or ends something.
#pragma once

#include <string>

#include "cluster/router.h"
#include "engine/base/result.h"

namespace plimsoll {

Error refusal_error(const std::string& tenant, const cluster::Decision& decision);
// `node`: the last one that the sequence ran on.
Error end_error(cluster::EndCause cause, const std::string& node);

}  // namespace plimsoll
