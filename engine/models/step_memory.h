// The memory that a model's steps compute in: one arena, sized from the step limits when the model
// is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/base/result.h"
#include "engine/memory/arena.h"
#include "engine/models/model.h"

namespace plimsoll {

// Row-wise work of fewer tokens than this is not worth waking a thread for.
inline constexpr std::size_t token_grain = 8;

// Stands in for an Arena, to find how large the arena must be.
class ByteCounter {
 public:
  template <class T>
  std::span<T> take(std::size_t count) {
    bytes_ += (count * sizeof(T) + 63) / 64 * 64;
    return {};
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::uint64_t bytes_ = 0;
};

template <class LayOut>
std::uint64_t step_bytes(LayOut&& lay_out) {
  ByteCounter counter;
  lay_out(counter);
  return counter.bytes();
}

// An arena for what lay_out(memory) takes. Errors: invalid_argument for a limit of zero,
// resource_exhausted if the kernel refuses.
template <class LayOut>
Result<Arena> make_step_memory(const LoadOptions& options, LayOut&& lay_out) {
  const StepLimits& limits = options.limits;
  if (limits.tokens == 0 || limits.sequences == 0 || limits.logit_rows == 0 ||
      limits.context_tokens == 0) {
    return fail(ErrorCode::invalid_argument, "every step limit must be at least 1");
  }
  return Arena::make(
      options.ledger->account(Component::activations, options.model_version, shared_tenant),
      step_bytes(lay_out));
}

}  // namespace plimsoll
