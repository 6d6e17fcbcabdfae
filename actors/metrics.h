// What Prometheus scrapes. Label values are bounded: tenants and models are those of the
// configuration, codes those of ErrorCode, reasons the first so many that are met.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/board.h"
#include "actors/frontend.h"
#include "engine/memory/headroom.h"
#include "storage/disk_cache.h"

namespace prometheus {
class Histogram;
}

namespace plimsoll {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  enum class Operation : std::uint8_t { generate, embed };
  // Thread-safe, all of them. `model` is a served model's name, or "unknown"; `error` null where
  // there was none.
  void request_ended(Operation operation, const TenantId& tenant, const std::string& model,
                     const Error* error, const GenerationUsage& usage);
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

  // What is not counted up here but read off at the moment.
  struct Snapshot {
    ClusterStatus status;
    std::uint32_t open_requests = 0;
    Result<MemoryReport> memory;
    std::vector<MemoryScope> scopes;
    const Board& board;
    const storage::DiskCache* cache;  // null: there is none
  };
  // Text exposition format 0.0.4.
  std::string text(const Snapshot& snapshot) const;

 private:
  struct Counters;
  std::unique_ptr<Counters> counters_;
};

}  // namespace plimsoll
