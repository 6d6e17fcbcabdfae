// The one rule about where a gateway may listen.
#pragma once

#include <string>

#include "actors/server_config.h"
#include "engine/base/result.h"

namespace plimsoll {

bool is_loopback(const std::string& host);  // 127.0.0.0/8, ::1, localhost

// Beyond loopback a gateway needs TLS; both PEM files must be readable where one is named.
// `name` is the configuration's section. Errors: invalid_argument.
Result<void> check_listen_address(const ListenConfig& listen, const std::string& name);

}  // namespace plimsoll
