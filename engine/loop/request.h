// What a sequence needs before it is accepted: sound parameters, and room for its peak.
#pragma once

#include <cstdint>

#include "engine/base/result.h"
#include "engine/kv/kv_layout.h"
#include "engine/loop/engine.h"

namespace plimsoll {

// The most tokens whose keys and values a sequence ever holds: its last token is never fed back.
std::uint32_t peak_tokens(const SequenceRequest& request);

// The bytes that a sequence takes outside the KV pool, from its start to its end.
std::uint64_t peak_bytes(const SequenceRequest& request, const KvDemand& demand);

// Errors: invalid_argument with `param` set, or resource_exhausted for a sequence that the pool of
// `capacity_blocks` can never hold.
Result<void> check_request(const SequenceRequest& request, const ModelInfo& model,
                           const EngineConfig& config, const KvDemand& demand,
                           std::uint32_t capacity_blocks);

}  // namespace plimsoll
