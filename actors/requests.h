// One actor for each request that a client has open. A stream actor makes tokens of a generation
// request, submits them, and makes text of what comes back; an embedding actor does the like.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "actors/board.h"
#include "actors/frontend.h"
#include "actors/history.h"
#include "actors/messages.h"
#include "actors/metrics.h"
#include "actors/open_requests.h"
#include "actors/request_memory.h"
#include "actors/text_model.h"
#include "engine/memory/ledger.h"
#include "storage/disk_cache.h"
#include "storage/token_tier.h"

namespace plimsoll {

// What all requests of a process share. Outlives them.
struct RequestServices {
  Ledger& ledger;
  Board& board;
  Metrics& metrics;
  const History& history;
  OpenRequests& open;
  RequestMemory& memory;
  const storage::DiskCache* cache;  // null: there is none
  storage::TokenTier* tokens;       // of long texts; null: none are kept
  RouterActor router;
  std::uint32_t window_tokens;  // of each choice, that a client may be behind
  std::chrono::milliseconds deadline;
};

// What a request takes while it is open, beside its text and tokens, and each of its choices:
// actors and their messages, what callers and the router keep of it. As a heap profile of thousands
// that wait has it; a choice has room for what its engine needs beside tokens, too.
inline constexpr std::uint64_t open_request_bytes = 2560;
inline constexpr std::uint64_t open_choice_bytes = 3840;

// A request as it came. `id` is the first of as many ids as it has choices.
struct OpenGeneration {
  RequestServices* services;
  RequestId id;
  Caller caller;
  GenerateRequest request;
  std::shared_ptr<GenerationListener> listener;
  std::shared_ptr<const TextModel> model;  // null where `refusal` is set
  std::optional<Error> refusal;            // found on the caller's thread
  RequestLease memory;                     // of the request; while it is encoded, for that too
  Charge generated;                        // tokens
  std::chrono::steady_clock::time_point arrived;
};
StreamActor spawn_stream(caf::actor_system& system, std::unique_ptr<OpenGeneration> request);

struct OpenEmbedding {
  RequestServices* services;
  RequestId id;
  Caller caller;
  EmbedRequest request;
  EmbedCallback callback;
  std::shared_ptr<const TextModel> model;
  std::optional<Error> refusal;
  RequestLease memory;  // as above
};
EmbedActor spawn_embedding(caf::actor_system& system, std::unique_ptr<OpenEmbedding> request);

}  // namespace plimsoll
