// The Cap'n Proto gateway: schema/inference.capnp and schema/operator.capnp over TCP, with TLS
// where configured. One thread with a KJ event loop serves all connections.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "actors/frontend.h"
#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

class RpcGateway {
 public:
  // Listens, and serves until stop(). `frontend` and `ledger` outlive the gateway.
  // Errors: invalid_argument (bad address; not loopback without TLS; unreadable PEM file),
  // unavailable (the port is taken).
  static Result<std::unique_ptr<RpcGateway>> start(const RpcConfig& config, Frontend& frontend,
                                                   Ledger& ledger);
  ~RpcGateway();

  // The same as of HTTP, but a 64th of the limit.
  static std::uint32_t fitting_connections(const RpcConfig& config, std::uint64_t limit_bytes);
  static std::uint64_t connection_bytes();

  std::uint16_t port() const;
  // Takes no new connection; calls in progress may end until the deadline, then are cut.
  void stop(std::chrono::milliseconds deadline);

 private:
  struct Impl;
  explicit RpcGateway(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace plimsoll
