#include "actors/gateway/listen_address.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <charconv>

namespace plimsoll {

Result<Address> parse_address(const std::string& text) {
  const auto colon = text.rfind(':');
  Address address;
  if (colon != std::string::npos && colon > 0) {
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, address.port);
    if (error == std::errc() && rest == end) {
      address.host = text.substr(0, colon);
      const bool bracketed = address.host.front() == '[' && address.host.back() == ']';
      if (bracketed) address.host = address.host.substr(1, address.host.size() - 2);
      if (!address.host.empty()) return address;
    }
  }
  return fail(ErrorCode::invalid_argument,
              "'" + text + "' is not HOST:PORT, with a port from 0 to 65535");
}

std::string to_string(const Address& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

bool is_loopback(const std::string& host) {
  if (host == "localhost" || host == "::1") return true;
  in_addr address{};
  return inet_pton(AF_INET, host.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

Result<void> check_listen_address(const ListenConfig& listen, const std::string& name) {
  const bool tls = !listen.tls_certificate.empty();
  if (tls == listen.tls_key.empty()) {
    return fail(ErrorCode::invalid_argument,
                name + ".tls_certificate and " + name + ".tls_key go together");
  }
  if (!tls && !is_loopback(listen.host)) {
    return fail(ErrorCode::invalid_argument,
                name + ".listen is " + listen.host + ", which others can reach: give " + name +
                    ".tls_certificate and " + name + ".tls_key, or listen on 127.0.0.1");
  }
  for (const auto& file : {listen.tls_certificate, listen.tls_key}) {
    if (!file.empty() && access(file.c_str(), R_OK) != 0) {
      return fail(ErrorCode::invalid_argument, name + ": cannot read " + file.string());
    }
  }
  return {};
}

}  // namespace plimsoll
