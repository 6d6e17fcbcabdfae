#include "actors/gateway/listen_address.h"

#include <arpa/inet.h>
#include <unistd.h>

namespace plimsoll {

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
