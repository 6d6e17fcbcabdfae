// What goes between a node's process and a router's, as bytes: schema/cluster.capnp. Messages of a
// newer neighbour that are not known here decode to std::monostate.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "actors/messages.h"
#include "engine/base/result.h"

namespace plimsoll::wire {

// What one side speaks. The number grows with every change that an older neighbour could not simply
// ignore; both numbers are this build's unless a test says otherwise.
struct Protocols {
  std::uint16_t oldest = 1;
  std::uint16_t newest = 1;
};

struct Hello {
  Protocols protocols;
  std::string node;
  std::string software;
  std::string secret;  // from an earlier welcome, or else:
  std::string join_token;
  double weight = 1;
};
struct Welcome {
  std::uint16_t protocol = 0;
  std::string router;
  std::string software;
  std::uint64_t epoch = 0;
  std::uint32_t heartbeat_ms = 0;
  std::string secret;  // to come back with, after a hello with a join token
};
// Of a hello; or the end of an epoch, after which a node says hello again.
struct Refused {
  Error error;
};
// Given back in the next report: tells the router the round trip.
struct Probe {
  std::uint64_t clock = 0;
};

// A call to the node's cache on disk, and what comes of it.
struct AskCache {
  std::uint64_t id = 0;
  CacheCall call;
};
struct TellCache {
  std::uint64_t id = 0;
  CacheAnswer answer;
};

// Node names are not sent: each link has one node. NodeEvents and EmbedResult decode with an empty
// name, and SequenceSpec ids are the router's run ids.
using Message = std::variant<std::monostate, Hello, NodeReport, NodeEvents, EmbedResult, Welcome,
                             Refused, SubmitStream, EmbedTokens, CancelSequences, AddCredit, Drain,
                             LoadModel, UnloadModel, Probe, SetCachePolicies, AskCache, TellCache>;

constexpr std::size_t most_frame_bytes = 64 << 20;
constexpr std::size_t most_report_events = 64;  // further ones wait for the next report

std::string encode(const Message& message);
// Errors: malformed (not a frame, over-long lists, lists that do not belong together).
Result<Message> decode(std::string_view bytes);

}  // namespace plimsoll::wire
