// What Prometheus scrapes. Label values are bounded: tenants and models are those of the
// configuration, codes those of ErrorCode.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "actors/frontend.h"

namespace plimsoll {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  enum class Operation : std::uint8_t { generate, embed };
  // Thread-safe, all of them. `model` is a served model's name, or "unknown".
  void request_ended(Operation operation, const TenantId& tenant, const std::string& model,
                     std::optional<ErrorCode> error, const GenerationUsage& usage);
  void first_token(const std::string& model, double seconds);
  // `tokens` came, this long after the ones before.
  void next_tokens(const std::string& model, std::uint32_t tokens, double seconds);

  // Text exposition format 0.0.4.
  std::string text(const ClusterStatus& status, std::uint32_t open_requests,
                   const Result<MemoryReport>& memory) const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace plimsoll
