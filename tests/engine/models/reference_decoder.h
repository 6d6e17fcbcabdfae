// A decoder written for plainness: double precision, no cache, no blocks, no batch.
#pragma once

#include <span>
#include <vector>

#include "engine/base/types.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll {

// Logits [tokens, vocab] of one sequence. Keys and values are rounded to f16, as the cache does.
std::vector<float> reference_logits(const TinyModel& model, std::span<const TokenId> tokens);

}  // namespace plimsoll
