// What Prometheus scrapes. Label values are bounded: tenants and models are those of the
// configuration, codes those of ErrorCode.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "actors/frontend.h"

namespace prometheus {
class Histogram;
}

namespace plimsoll {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  enum class Operation : std::uint8_t { generate, embed };
  // Thread-safe, all of them. `model` is a served model's name, or "unknown".
  void request_ended(Operation operation, const TenantId& tenant, const std::string& model,
                     std::optional<ErrorCode> error, const GenerationUsage& usage);
  // Where the times of one model's tokens are counted: looked up once a stream, not once a token.
  class TokenTimes {
   public:
    void first(double seconds);
    void next(std::uint32_t tokens, double seconds);  // `tokens` came so long after the ones before

   private:
    friend class Metrics;
    prometheus::Histogram* first_ = nullptr;
    prometheus::Histogram* next_ = nullptr;
  };
  TokenTimes token_times(const std::string& model);  // valid for the metrics' life

  // Text exposition format 0.0.4.
  std::string text(const ClusterStatus& status, std::uint32_t open_requests,
                   const Result<MemoryReport>& memory) const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace plimsoll
