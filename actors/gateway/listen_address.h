// Addresses as a configuration writes them, and the one rule about where a gateway may listen.
#pragma once

#include <cstdint>
#include <string>

#include "actors/server_config.h"
#include "engine/base/result.h"

namespace plimsoll {

struct Address {
  std::string host;
  std::uint16_t port = 0;
};
// "HOST:PORT" or "[HOST]:PORT". Errors: invalid_argument.
Result<Address> parse_address(const std::string& text);
std::string to_string(const Address& address);

bool is_loopback(const std::string& host);  // 127.0.0.0/8, ::1, localhost

// Beyond loopback a gateway needs TLS; both PEM files must be readable where one is named.
// `name` is the configuration's section. Errors: invalid_argument.
Result<void> check_listen_address(const ListenConfig& listen, const std::string& name);

}  // namespace plimsoll
