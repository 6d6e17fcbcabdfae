// Where vectors are kept, so that an input that was embedded once need not be again: a place that
// need not keep anything. What comes back has the bits that went. A tenant finds only its own.
//
// Called on the engine's thread: nothing here waits for I/O.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/base/types.h"

namespace plimsoll {

// Vectors that are there, and may be asked for. To destroy it is to want them no longer.
class EmbeddingFetch {
 public:
  virtual ~EmbeddingFetch() = default;
  virtual std::span<const std::uint32_t> inputs() const = 0;  // which of them, ascending; 1 or more
  virtual double read_seconds() const = 0;                    // that it is expected to take
  // Once; `on_done` is called on another thread, never after the destruction of this.
  virtual void start(std::function<void()> on_done) = 0;
  virtual bool done() const = 0;
  // What has come so far of inputs(), in order, from the first on; nothing comes any more. Empty:
  // that one was lost meanwhile.
  virtual std::vector<std::vector<float>> take() = 0;
};

class EmbeddingTier {
 public:
  virtual ~EmbeddingTier() = default;
  // Takes a copy, or drops it where it has no room at present.
  virtual void offer(const TenantId& tenant, std::span<const TokenId> input,
                     std::span<const float> vector) = 0;
  // Those of the inputs whose vectors are known. Null: none.
  virtual std::unique_ptr<EmbeddingFetch> look_up(const TenantId& tenant,
                                                  std::span<const std::vector<TokenId>> inputs) = 0;
};

}  // namespace plimsoll
