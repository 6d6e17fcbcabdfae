// The OpenAI-compatible HTTP gateway: HTTP/1.1, with TLS where configured. Two threads serve all
// connections.
//
// GET /  /health  /ready  /metrics  /console  /console/data  /v1/models  /v1/models/{id}
// POST /v1/chat/completions  /v1/completions  /v1/embeddings
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "actors/frontend.h"
#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

class HttpGateway {
 public:
  // Listens, and serves until stop(). `frontend` and `ledger` outlive the gateway.
  // Errors: invalid_argument (bad address; not loopback without TLS; PEM file unreadable or no
  // pair), unavailable (the port is taken).
  static Result<std::unique_ptr<HttpGateway>> start(const HttpConfig& config, Frontend& frontend,
                                                    Ledger& ledger);
  ~HttpGateway();

  // As many connections as a 16th of the memory limit holds, but some; at most as configured.
  static std::uint32_t fitting_connections(const HttpConfig& config, std::uint64_t limit_bytes);
  // What one of them may come to, beside what requests and answers hold.
  static std::uint64_t connection_bytes(const HttpConfig& config);

  std::uint16_t port() const;
  // Takes no new connection and ends idle ones; answers in progress may end until the deadline,
  // then are cancelled and end with `unavailable`. May be called again.
  void stop(std::chrono::milliseconds deadline);

 private:
  struct Impl;
  explicit HttpGateway(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace plimsoll
